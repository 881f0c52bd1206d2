"""The models of the training comparison with PyTorch (benchmarks/training_parity.py), small and with random weights.

``MODELS`` maps a name to a ``TrainingModel``: how to build the module, how to draw a batch, and what is learnt. Every module
returns logits (N, classes) or (N, classes, …), classes along axis 1, and is trained with cross entropy against int64 class
indices (N, …): ``torch.nn.functional.cross_entropy(logits, target)`` there, ``training_step(program, loss="cross_entropy")``
here. Language models return (N, vocabulary, positions) and predict the next token.

Models of the ``transformers`` library are built from configuration objects; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

#: Arrays of one batch by input name, and the target.
Batch = tuple[dict[str, np.ndarray], np.ndarray]

BATCH, VOCABULARY, CLASSES = 4, 67, 10


@dataclass(frozen=True)
class TrainingModel:
    """A model and what it takes to train it.

    Attributes:
        make: the module in ``train()`` mode, from keyword arguments; weights come from PyTorch's global generator.
        draw: a batch from a NumPy generator.
        inputs: names of the inputs, in the order of ``forward``'s arguments.
        target: what the target means.
        options: keyword arguments of ``make`` that may be varied, with their possible values; the first is the default.
    """

    make: Callable[..., nn.Module]
    draw: Callable[[np.random.Generator], Batch]
    inputs: tuple[str, ...]
    target: str
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def build(self, seed: int = 0, **options: Any) -> nn.Module:
        """The module in ``train()`` mode with weights drawn from ``seed``; PyTorch's global generator is left as it was.

        Args:
            seed: of the weights.
            options: ``dropout`` (a probability; by default 0, with which training can be compared number by number), and
                what ``self.options`` names.
        """
        chosen = {name: values[0] for name, values in self.options.items()} | options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(**chosen).train()

    def batch(self, seed: int = 0) -> Batch:
        """Inputs by name and target, drawn from ``seed``."""
        return self.draw(np.random.default_rng(seed))

    def example(self, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """The inputs of a batch as ``torch.export`` and the module take them."""
        inputs, _ = self.batch(seed)
        return tuple(torch.from_numpy(inputs[name]) for name in self.inputs)


# ---- batches --------------------------------------------------------------------------------------------------------


def _vectors(features: int) -> Callable[[np.random.Generator], Batch]:
    def draw(rng: np.random.Generator) -> Batch:
        x = rng.standard_normal((BATCH, features), dtype=np.float32)
        return {"x": x}, rng.integers(0, CLASSES, BATCH)

    return draw


def _images(size: int, *, dense: bool = False) -> Callable[[np.random.Generator], Batch]:
    """Images (N, 3, size, size) with a class each, or with one for each pixel (``dense``)."""

    def draw(rng: np.random.Generator) -> Batch:
        x = rng.standard_normal((BATCH, 3, size, size), dtype=np.float32)
        return {"x": x}, rng.integers(0, CLASSES, (BATCH, size, size) if dense else BATCH)

    return draw


def _next_tokens(length: int) -> Callable[[np.random.Generator], Batch]:
    def draw(rng: np.random.Generator) -> Batch:
        tokens = rng.integers(1, VOCABULARY, (BATCH, length + 1))
        return {"ids": tokens[:, :-1].copy()}, tokens[:, 1:].copy()

    return draw


def _sequences(length: int) -> Callable[[np.random.Generator], Batch]:
    def draw(rng: np.random.Generator) -> Batch:
        return {"ids": rng.integers(0, VOCABULARY, (BATCH, length))}, rng.integers(0, CLASSES, BATCH)

    return draw


def _padded_sequences(length: int) -> Callable[[np.random.Generator], Batch]:
    """Token 0 fills what lies behind each sequence; ``mask`` is 1 inside, 0 behind."""

    def draw(rng: np.random.Generator) -> Batch:
        lengths = rng.integers(length // 2, length + 1, BATCH)
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(1, VOCABULARY, (BATCH, length)) * mask
        return {"ids": ids, "mask": mask}, rng.integers(0, CLASSES, BATCH)

    return draw


def _translations(source: int, length: int) -> Callable[[np.random.Generator], Batch]:
    """Padded source sequences with a mask, target sequences that start with token 0."""

    def draw(rng: np.random.Generator) -> Batch:
        inputs, _ = _padded_sequences(source)(rng)
        target = rng.integers(1, VOCABULARY, (BATCH, length))
        decoder = np.concatenate([np.zeros((BATCH, 1), np.int64), target[:, :-1]], axis=1)
        return {**inputs, "decoder_ids": decoder}, target

    return draw


# ---- networks of layers ---------------------------------------------------------------------------------------------


def mlp(dropout: float = 0.0) -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(
        *(nn.Linear(20, 48), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(48, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, CLASSES)),
    )


class _Residual(nn.Module):
    """The basic block of ResNet-18 (He et al. 2016)."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.short(x))


def resnet() -> nn.Module:
    """ResNet-18: a stem, four stages of two blocks, with 8 to 32 channels."""
    widths, layers = (8, 8, 16, 24, 32), []
    for stage in range(4):
        i, o = widths[stage], widths[stage + 1]
        layers += [_Residual(i, o, 1 if stage == 0 else 2), _Residual(o, o, 1)]
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)),
        *(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )


class _Inverted(nn.Module):
    """The inverted residual of MobileNetV2 (Sandler et al. 2018)."""

    def __init__(self, i: int, o: int, stride: int, expand: int) -> None:
        super().__init__()
        width = i * expand
        self.residual = stride == 1 and i == o
        widen = [nn.Conv2d(i, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)] if expand != 1 else []
        self.layers = nn.Sequential(
            *widen,
            *(nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(width, o, 1, bias=False), nn.BatchNorm2d(o)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def mobilenet(dropout: float = 0.0) -> nn.Module:
    """MobileNetV2 with five inverted residuals."""
    blocks = [_Inverted(*b) for b in ((8, 8, 1, 1), (8, 12, 2, 4), (12, 12, 1, 4), (12, 16, 2, 4), (16, 16, 1, 4))]
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), *blocks),
        *(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, CLASSES)),
    )


def _double(i: int, o: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)),
        *(nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)),
    )


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with two levels: one goes up by a transposed convolution, one by interpolation."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _double(3, 8), _double(8, 16), _double(16, 24)
        self.up2, self.join2 = nn.ConvTranspose2d(24, 16, 2, 2), _double(32, 16)
        self.up1, self.join1 = nn.Conv2d(16, 8, 3, padding=1), _double(16, 8)
        self.drop, self.head = nn.Dropout2d(dropout), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        y = self.bottom(F.max_pool2d(two, 2))
        y = self.join2(torch.cat([two, self.up2(y)], 1))
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        y = self.join1(torch.cat([one, self.up1(y)], 1))
        return self.head(self.drop(y))


class Recurrent(nn.Module):
    """An embedding, two layers of LSTM or GRU, and a head on the last step's features."""

    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.rnn = kind(16, 24, 2, batch_first=True, bidirectional=bidirectional, dropout=dropout)
        self.head = nn.Linear(48 if bidirectional else 24, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(self.embed(ids))
        return self.head(y[:, -1])


# ---- transformers ---------------------------------------------------------------------------------------------------


class Logits(nn.Module):
    """A model of the ``transformers`` library that returns its logits only, tokens' with the vocabulary along axis 1.

    Its inputs are given by position under the names ``keys``.
    """

    def __init__(self, model: nn.Module, keys: tuple[str, ...], *, tokens: bool) -> None:
        super().__init__()
        self.model, self.keys, self.tokens = model, keys, tokens

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        extra = {"use_cache": False} if self.tokens else {}
        logits = self.model(**dict(zip(self.keys, inputs, strict=True)), **extra).logits
        return logits.transpose(1, 2) if self.tokens else logits


def vit(attention: str = "eager", dropout: float = 0.0) -> nn.Module:
    """ViTForImageClassification on 4 x 4 patches."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation=attention,
    )
    return Logits(ViTForImageClassification(config), ("pixel_values",), tokens=False)


def bert(attention: str = "eager", dropout: float = 0.0) -> nn.Module:
    """BertForSequenceClassification with a padding mask."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation=attention,
    )
    return Logits(BertForSequenceClassification(config), ("input_ids", "attention_mask"), tokens=False)


def gpt2(attention: str = "eager", dropout: float = 0.0) -> nn.Module:
    """GPT2LMHeadModel, its head tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=4,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    return Logits(GPT2LMHeadModel(config), ("input_ids",), tokens=True)


def llama(attention: str = "eager", dropout: float = 0.0) -> nn.Module:
    """LlamaForCausalLM: rotary positions, RMSNorm, SwiGLU, four query heads on two key and value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        attention_dropout=dropout,
        attn_implementation=attention,
    )
    return Logits(LlamaForCausalLM(config), ("input_ids",), tokens=True)


def t5(attention: str = "eager", dropout: float = 0.0) -> nn.Module:
    """T5ForConditionalGeneration: encoder and decoder with relative positions."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=dropout,
        attn_implementation=attention,
    )
    keys = ("input_ids", "attention_mask", "decoder_input_ids")
    return Logits(T5ForConditionalGeneration(config), keys, tokens=True)


# ---- the table ------------------------------------------------------------------------------------------------------

_CLASS, _NEXT = "a class for each sample", "the next token at each position"
_ATTENTION: dict[str, tuple[Any, ...]] = {"attention": ("eager", "sdpa")}
_DIRECTIONS: dict[str, tuple[Any, ...]] = {"bidirectional": (False, True)}


def _recurrent(kind: type[nn.RNNBase]) -> TrainingModel:
    def make(**options: Any) -> nn.Module:
        return Recurrent(kind, **options)

    return TrainingModel(make, _sequences(9), ("ids",), _CLASS, _DIRECTIONS)


MODELS: dict[str, TrainingModel] = {
    "mlp": TrainingModel(mlp, _vectors(20), ("x",), _CLASS),
    "resnet18": TrainingModel(resnet, _images(32), ("x",), _CLASS),
    "mobilenetv2": TrainingModel(mobilenet, _images(24), ("x",), _CLASS),
    "unet": TrainingModel(UNet, _images(16, dense=True), ("x",), "a class for each pixel"),
    "vit": TrainingModel(vit, _images(16), ("x",), _CLASS, _ATTENTION),
    "bert": TrainingModel(bert, _padded_sequences(11), ("ids", "mask"), _CLASS, _ATTENTION),
    "gpt2": TrainingModel(gpt2, _next_tokens(13), ("ids",), _NEXT, _ATTENTION),
    "llama": TrainingModel(llama, _next_tokens(13), ("ids",), _NEXT, _ATTENTION),
    "t5": TrainingModel(t5, _translations(11, 9), ("ids", "mask", "decoder_ids"), _NEXT, _ATTENTION),
    "lstm": _recurrent(nn.LSTM),
    "gru": _recurrent(nn.GRU),
}
