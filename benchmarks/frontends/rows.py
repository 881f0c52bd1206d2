"""The rows of the table; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass

TORCH = (
    *("ResNet-18", "MobileNetV2", "U-Net", "ViT", "BERT", "GPT-2", "Llama", "Mistral", "Qwen2", "T5", "CLIP", "ConvNeXt"),
    *("Swin", "Whisper", "LSTM", "GRU", "bidirectional LSTM", "diffusion U-Net", "GraphSAGE"),
)

KERAS = (
    *("VGG16", "ResNet50", "ResNet50V2", "InceptionV3", "Xception", "MobileNet", "MobileNetV2", "MobileNetV3Small"),
    *("DenseNet121", "EfficientNetB0", "LSTM", "GRU", "transformer"),
)
SAVED = ("ResNet", "U-Net", "ViT", "separable CNN", "LSTM", "GRU", "transformer", "MLP", "while_loop decoder")
MODULES = ("raw operators", "while_loop decoder")
KERAS_TO_ONNX = ("VGG16", "MobileNet", "ResNet50", "LSTM", "GRU", "transformer")


@dataclass(frozen=True)
class Row:
    """A model in a framework.

    Attributes:
        framework: ``torch``, ``keras``, ``tensorflow`` or ``onnx``.
        source: of a Keras model the backend, of an ONNX model the framework that exports it, else the framework.
        model: a name in the framework's module.
    """

    framework: str
    source: str
    model: str

    @property
    def name(self) -> str:
        """Unique in the table."""
        return (
            f"{self.framework}/{self.source}/{self.model}"
            if self.source != self.framework
            else f"{self.framework}/{self.model}"
        )

    @property
    def module(self) -> str:
        """Of this package: where the model is built."""
        return f"{self.framework}_models"


ROWS = (
    *(Row("torch", "torch", name) for name in TORCH),
    *(Row("tensorflow", "tensorflow", f"SavedModel {name}") for name in SAVED),
    *(Row("tensorflow", "tensorflow", f"tf.Module {name}") for name in MODULES),
    *(Row("onnx", "torch", name) for name in TORCH),
    *(Row("onnx", "keras", name) for name in KERAS_TO_ONNX),
    *(Row("keras", backend, name) for name in reversed(KERAS) for backend in ("tensorflow", "torch")),
)
