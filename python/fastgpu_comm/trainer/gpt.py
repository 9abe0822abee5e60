"""A small GPT over bytes: a decoder-only transformer with pre-normalisation.

After Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, with its
initialisation (residual projections are scaled down by sqrt(2 x layers)), but with rotary places
(Su et al., "RoFormer", 2021), from which a small model learns far sooner to look back at what it
has seen: pair i of a head's d numbers is turned by place x 10000^(-2i/d), so that a product of
query and key depends on their distance alone.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BYTES = 256


@dataclasses.dataclass(frozen=True)
class GptShape:
    """The size of a model: `width` is an even multiple of `heads`; `context` is in bytes."""

    context: int
    layers: int
    width: int
    heads: int

    def __post_init__(self) -> None:
        """Checks the shape.

        Raises:
            ValueError: when heads do not divide the width into even parts.
        """
        if self.width % (2 * self.heads):
            raise ValueError(
                f"GptShape.width is {self.width} and heads is {self.heads}; width must be a "
                "multiple of 2 x heads."
            )


class Gpt(nn.Module):
    """Gives, for each byte of a text, scores of what the next one is.

    Input (batch, length) of int64, length at most the context; output (batch, length, 256).
    """

    def __init__(self, shape: GptShape) -> None:
        """Draws the weights from torch's global generator."""
        super().__init__()
        self.shape = shape
        self.bytes = nn.Embedding(BYTES, shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.scores = nn.Linear(shape.width, BYTES, bias=False)
        self.scores.weight = self.bytes.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                shrink = math.sqrt(2 * shape.layers) if name.endswith("_out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / shrink)

    def forward(self, text: Tensor) -> Tensor:
        """Returns the scores."""
        half = self.shape.width // self.shape.heads // 2
        speeds = 10_000.0 ** -(torch.arange(half, device=text.device) / half)
        angles = torch.outer(torch.arange(text.shape[1], device=text.device), speeds)
        turns = torch.stack((angles.cos(), angles.sin()))
        x = self.bytes(text)
        for block in self.blocks:
            x = block(x, turns)
        scores: Tensor = self.scores(self.norm(x))
        return scores

    @torch.no_grad()
    def generate(self, start: bytes, count: int, temperature: float, seed: int) -> bytes:
        """Returns `start` and `count` bytes drawn one after the other.

        Args:
            start: at least one byte.
            count: how many bytes to add.
            temperature: above 0; lower is more likely text.
            seed: of the draw.
        """
        device = self.bytes.weight.device
        generator = torch.Generator().manual_seed(seed)
        text = list(start)
        for _ in range(count):
            seen = torch.tensor([text[-self.shape.context :]], device=device)
            scores = self(seen)[0, -1].float().cpu() / temperature
            text.append(int(torch.multinomial(scores.softmax(0), 1, generator=generator)))
        return bytes(text)


class _Block(nn.Module):
    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        x = x + self.attention_out(self._attend(self.attention_norm(x), turns))
        y: Tensor = x + self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x))))
        return y

    def _attend(self, x: Tensor, turns: Tensor) -> Tensor:
        batch, length, width = x.shape
        packed = self.attention_in(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        query, key = _turn(query, turns), _turn(key, turns)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, width)


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turns pairs of numbers (one of the first half, one of the second) by (cosines, sines)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turns.to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
