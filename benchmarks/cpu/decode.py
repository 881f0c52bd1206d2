"""GPT-2 124M computing one token from a cache of keys and values, which are inputs: the step of text generation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cpu.cases import Workload, indices, tensor, with_weights

LAYERS, HEADS, WIDTH, VOCABULARY, PAST = 12, 12, 768, 50257, 128


class Block(nn.Module):
    """A layer for one new token; also gives the token's keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n = x.shape[0]
        q, k, v = (t.reshape(n, 1, HEADS, WIDTH // HEADS).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(WIDTH, -1))
        y = F.scaled_dot_product_attention(q, torch.cat([keys, k], 2), torch.cat([values, v], 2))
        x = x + self.out(y.transpose(1, 2).reshape(n, 1, WIDTH))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x)), approximate="tanh")), k, v


class Decoder(nn.Module):
    """From a token (N, 1) and each layer's keys and values (N, heads, past, width) to logits (N, 1, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(1024, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)

    def forward(self, ids: torch.Tensor, *cache: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, new = self.embed(ids) + self.position.weight[PAST], []
        for k, block in enumerate(self.blocks):
            x, *pair = block(x, cache[2 * k], cache[2 * k + 1])
            new += pair
        return F.linear(self.norm(x), self.embed.weight), *new


def decode(batch: int) -> Workload:
    """One token for each of ``batch`` sequences."""
    cache = (tensor(f"cache {k}", batch, HEADS, PAST, WIDTH // HEADS) for k in range(2 * LAYERS))
    return Workload(with_weights(Decoder()).eval(), (torch.from_numpy(indices("ids", (batch, 1), VOCABULARY)), *cache))
