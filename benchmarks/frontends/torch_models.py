"""Models of PyTorch: those of the training comparison, and further ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import gensyn_tvm
from benchmarks.frontends.subject import STEPS, Subject
from benchmarks.training_models import CLASSES, MODELS, VOCABULARY, Logits

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]


def _ids(*shape: int, high: int = VOCABULARY) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, high, shape))


def _floats(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


# ---- transformers ---------------------------------------------------------------------------------------------------


def _decoder(kind: str, **options: Any) -> Made:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        **options,
    )
    return Logits(getattr(transformers, f"{kind}ForCausalLM")(config), ("input_ids",), tokens=True), (_ids(2, 12),)


def mistral() -> Made:
    """MistralForCausalLM: a sliding window of 5 tokens."""
    return _decoder("Mistral", sliding_window=5, attn_implementation="sdpa")


def qwen2() -> Made:
    """Qwen2ForCausalLM: biases in the projections, head tied to the embedding."""
    return _decoder("Qwen2", tie_word_embeddings=True, attn_implementation="sdpa")


class _Clip(nn.Module):
    """Similarities of images and texts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_image


def clip() -> Made:
    """CLIPModel: two encoders and a temperature."""
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**common, "vocab_size": VOCABULARY, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**common, "image_size": 16, "patch_size": 4}, projection_dim=24)
    mask = torch.ones(3, 10, dtype=torch.int64)
    mask[1, 6:] = 0
    return _Clip(CLIPModel(config)), (_ids(3, 10), mask, _floats(2, 3, 16, 16))


def convnext() -> Made:
    """ConvNextForImageClassification with four stages."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1], num_labels=CLASSES, image_size=32)
    return Logits(ConvNextForImageClassification(config), ("pixel_values",), tokens=False), (_floats(2, 3, 32, 32),)


def swin() -> Made:
    """SwinForImageClassification: shifted windows, relative positions, merging of patches."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=CLASSES,
        drop_path_rate=0.0,
        attn_implementation="eager",
    )
    return Logits(SwinForImageClassification(config), ("pixel_values",), tokens=False), (_floats(2, 3, 32, 32),)


def whisper() -> Made:
    """WhisperForConditionalGeneration: convolutions over a spectrogram, encoder and decoder."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=12,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    keys = ("input_features", "decoder_input_ids")
    return Logits(WhisperForConditionalGeneration(config), keys, tokens=True), (_floats(2, 12, 32), _ids(2, 9))


# ---- written out ----------------------------------------------------------------------------------------------------


class _TimedBlock(nn.Module):
    """The residual block of a diffusion network: group normalisation, SiLU, a shift by the time's embedding."""

    def __init__(self, i: int, o: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, i), nn.Conv2d(i, o, 3, padding=1)
        self.time = nn.Linear(time, o)
        self.norm2, self.conv2 = nn.GroupNorm(4, o), nn.Conv2d(o, o, 3, padding=1)
        self.short = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.short(x) + self.conv2(F.silu(self.norm2(y)))


class _PixelAttention(nn.Module):
    """Attention between the pixels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(4, width), nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        y = self.norm(x).reshape(n, c, h * w).transpose(1, 2)
        y, _ = self.attention(y, y, y, need_weights=False)
        return x + y.transpose(1, 2).reshape(n, c, h, w)


class DiffusionUNet(nn.Module):
    """The noise of a diffusion model (Ho et al. 2020): sinusoids of the time, residual blocks, attention at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.block1, self.block2 = _TimedBlock(8, 8, 32), _TimedBlock(16, 16, 32)
        self.attention, self.block3 = _PixelAttention(16), _TimedBlock(16, 16, 32)
        self.up, self.block4 = nn.Conv2d(16, 8, 3, padding=1), _TimedBlock(16, 8, 32)
        self.norm, self.head = nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(torch.arange(8, dtype=torch.float32) * (-9.21 / 8))
        angles = moment.float()[:, None] * rates[None]
        t = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        one = self.block1(self.stem(x), t)
        y = self.block3(self.attention(self.block2(self.down(one), t)), t)
        y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        return self.head(F.silu(self.norm(self.block4(torch.cat([one, y], 1), t))))


class GraphSage(nn.Module):
    """GraphSAGE (Hamilton et al. 2017) with means over neighbours: gather along edges, scatter to their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList([nn.Linear(6, 16), nn.Linear(16, CLASSES)])
        self.neighbours = nn.ModuleList([nn.Linear(6, 16, bias=False), nn.Linear(16, CLASSES, bias=False)])

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        start, end = edges[0], edges[1]
        degree = torch.zeros(x.shape[0]).index_add(0, end, torch.ones(end.shape[0])).clamp(min=1)
        for k, (own, neighbours) in enumerate(zip(self.own, self.neighbours, strict=True)):
            messages = x[start]
            index = end[:, None].expand_as(messages)
            total = torch.zeros_like(x).scatter_add(0, index, messages)
            x = own(x) + neighbours(total / degree[:, None])
            x = F.normalize(torch.relu(x), dim=-1) if k == 0 else x
        return x


def _compared(name: str, **options: Any) -> Callable[[], Made]:
    """A model of the training comparison."""
    model = MODELS[name]
    return lambda: (model.build(0, **options), model.example(0))


BUILDERS: dict[str, Callable[[], Made]] = {
    # Large enough for more than one pixel where batch normalisation comes last: otherwise it amplifies rounding errors.
    "ResNet-18": lambda: (MODELS["resnet18"].build(0), (_floats(4, 3, 64, 64),)),
    "MobileNetV2": _compared("mobilenetv2"),
    "U-Net": _compared("unet"),
    "ViT": _compared("vit"),
    "BERT": _compared("bert", attention="sdpa"),
    "GPT-2": _compared("gpt2"),
    "Llama": _compared("llama", attention="sdpa"),
    "Mistral": mistral,
    "Qwen2": qwen2,
    "T5": _compared("t5"),
    "CLIP": clip,
    "ConvNeXt": convnext,
    "Swin": swin,
    "Whisper": whisper,
    "LSTM": _compared("lstm"),
    "GRU": _compared("gru"),
    "bidirectional LSTM": _compared("lstm", bidirectional=True),
    "diffusion U-Net": lambda: (DiffusionUNet(), (_floats(2, 3, 8, 8), _ids(2, high=1000))),
    "GraphSAGE": lambda: (GraphSage(), (_floats(12, 6), _ids(2, 30, high=12))),
}


def build(name: str) -> Made:
    """A module in ``train()`` mode without dropout, and its inputs."""
    torch.manual_seed(0)
    module, inputs = BUILDERS[name]()
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
        for attribute in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(child, attribute, None), float):
                setattr(child, attribute, 0.0)
    return module.train(), inputs


def infer(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """The outputs of a copy in ``eval()`` mode."""
    with torch.no_grad():
        result = copy.deepcopy(module).eval()(*inputs)
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def train(module: nn.Module, inputs: Sequence[torch.Tensor], target: np.ndarray, rate: float) -> list[float]:
    """Losses of a copy's training."""
    twin, wanted = copy.deepcopy(module), torch.from_numpy(target)
    optimizer, losses = torch.optim.SGD(twin.parameters(), lr=rate), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.mse_loss(twin(*inputs), wanted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def subject(name: str, _source: str) -> Subject:
    """The model of a row."""
    module, inputs = build(name)
    program = gensyn_tvm.from_torch(module, inputs)
    arrays = tuple(t.numpy() for t in inputs)
    return Subject(program, arrays, lambda: infer(module, inputs), lambda *given: train(module, inputs, *given))
