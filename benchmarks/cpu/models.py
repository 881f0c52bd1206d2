"""Whole networks in their published sizes, with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import transformers
from torch import nn

from benchmarks.cpu.cases import Case, Workload, indices, tensor, with_weights
from benchmarks.cpu.decode import decode

CLASSES, VOCABULARY, LENGTH = 1000, 50257, 128


class Logits(nn.Module):
    """A model of ``transformers`` that returns its logits only; those of tokens have the vocabulary along axis 1."""

    def __init__(self, model: nn.Module, *, tokens: bool = False) -> None:
        super().__init__()
        self.model, self.tokens = model, tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = (self.model(x, use_cache=False) if self.tokens else self.model(x)).logits
        return logits.transpose(1, 2) if self.tokens else logits


def mlp() -> nn.Module:
    """784 - 2048 - 2048 - 1000."""
    return nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, CLASSES))


def resnet50() -> nn.Module:
    """ResNet-50, 25.6 million parameters."""
    return Logits(transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=CLASSES)))


def mobilenetv2() -> nn.Module:
    """MobileNetV2, 3.5 million parameters."""
    config = transformers.MobileNetV2Config(num_labels=CLASSES, classifier_dropout_prob=0.0)
    return Logits(transformers.MobileNetV2ForImageClassification(config))


def vit_small() -> nn.Module:
    """ViT-S/16, 22 million parameters."""
    config = transformers.ViTConfig(
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Logits(transformers.ViTForImageClassification(config))


def bert() -> nn.Module:
    """BERT-base, 110 million parameters, with a classifier."""
    config = transformers.BertConfig(num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return Logits(transformers.BertForSequenceClassification(config))


def gpt2(layers: int = 12) -> nn.Module:
    """GPT-2, 124 million parameters."""
    config = transformers.GPT2Config(n_layer=layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return Logits(transformers.GPT2LMHeadModel(config), tokens=True)


def llama() -> nn.Module:
    """A Llama of 134 million parameters: 12 layers of width 768, four key and value heads for twelve query heads."""
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    return Logits(transformers.LlamaForCausalLM(config), tokens=True)


class Lstm(nn.Module):
    """An embedding, two LSTM layers and a classifier on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10000, 256)
        self.rnn = nn.LSTM(256, 256, 2, batch_first=True)
        self.head = nn.Linear(256, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(self.embed(ids))
        return self.head(y[:, -1])


def _vectors(batch: int) -> torch.Tensor:
    return tensor("x", batch, 784)


def _images(batch: int, size: int = 224) -> torch.Tensor:
    return tensor("x", batch, 3, size, size)


def _tokens(batch: int, length: int = LENGTH, vocabulary: int = 30000) -> torch.Tensor:
    return torch.from_numpy(indices("ids", (batch, length), vocabulary))


@dataclass(frozen=True)
class Network:
    """A network and its batches.

    Attributes:
        make: the module.
        draw: its input for a batch size.
        classes: number of classes of the targets.
        train: batch size of a training step.
        per_token: whether there is a target for each token.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[int], torch.Tensor]
    train: int
    classes: int = CLASSES
    per_token: bool = False


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp, _vectors, 64),
    "resnet50": Network(resnet50, _images, 4),
    "mobilenetv2": Network(mobilenetv2, _images, 4),
    "vit-small": Network(vit_small, _images, 4),
    "bert-base": Network(bert, _tokens, 2),
    "gpt2": Network(gpt2, partial(_tokens, vocabulary=VOCABULARY), 1, VOCABULARY, True),
    "llama": Network(llama, _tokens, 1, 32000, True),
    "lstm": Network(Lstm, partial(_tokens, length=32, vocabulary=10000), 16),
}
#: Networks no larger than they need to be, for the quick sample and for training.
SMALL: dict[str, Network] = {
    "mlp": NETWORKS["mlp"],
    "mobilenetv2 96": Network(mobilenetv2, partial(_images, size=96), 4),
    "gpt2, 2 layers": Network(partial(gpt2, 2), partial(_tokens, length=64, vocabulary=VOCABULARY), 2, VOCABULARY, True),
}
QUICK_INFERENCE = ("resnet50", "mobilenetv2", "bert-base")
QUICK_TRAINING = ("mlp", "gpt2, 2 layers")


def inference(network: Network, batch: int) -> Workload:
    """Evaluation of a batch."""
    return Workload(with_weights(network.make()).eval(), (network.draw(batch),))


def training(network: Network) -> Workload:
    """A training step."""
    x = network.draw(network.train)
    shape = tuple(x.shape) if network.per_token else (network.train,)
    return Workload(with_weights(network.make()).train(), (x,), target=indices("target", shape, network.classes))


def cases() -> Iterator[Case]:
    """All whole networks."""
    for name, network in NETWORKS.items():
        for batch in (1, 16):
            quick = batch == 1 and name in QUICK_INFERENCE
            yield Case("inference", f"{name}, batch {batch}", partial(inference, network, batch), quick, 1e-3)
    for batch in (1, 16):
        yield Case("inference", f"gpt2 decode, batch {batch}", partial(decode, batch), tolerance=1e-3)
    for name, batch in (("mlp", 4), ("mlp", 64), ("mlp", 256), ("resnet50", 2), ("resnet50", 4), ("resnet50", 8)):
        yield Case("scaling", f"{name}, batch {batch}", partial(inference, NETWORKS[name], batch), tolerance=1e-3)
    for length in (32, 64, 256, 512):
        network = Network(bert, partial(_tokens, length=length), 1)
        yield Case("scaling", f"bert-base, length {length}", partial(inference, network, 1), tolerance=1e-3)
    for name, network in {**NETWORKS, **SMALL}.items():
        yield Case("training", f"{name}, batch {network.train}", partial(training, network), name in QUICK_TRAINING, 1e-3)
