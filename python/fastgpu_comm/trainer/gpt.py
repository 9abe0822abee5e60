"""A small GPT over bytes: a decoder-only transformer with pre-normalisation.

It follows Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, with its
initialisation: residual projections are scaled down by sqrt(2 x layers). Its position embedding is
rotary (Su et al., "RoFormer", 2021), because a small model then learns much sooner to attend to
earlier text. Pair i of a head's d numbers is rotated by position x 10000^(-2i/d), so the product of
a query and a key depends on their distance only.
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
    """The size of a model. `width` must be an even multiple of `heads`; `context` is in bytes."""

    context: int
    layers: int
    width: int
    heads: int

    def __post_init__(self) -> None:
        """Checks the shape.

        Raises:
            ValueError: `width` is not a multiple of 2 x `heads`.
        """
        if self.width % (2 * self.heads):
            raise ValueError(
                f"GptShape.width is {self.width} and heads is {self.heads}; width must be a "
                "multiple of 2 x heads."
            )


class Gpt(nn.Module):
    """A model that scores, for each byte of a text, every value of the next byte.

    The input has shape (batch, length) and dtype int64, with a length of at most the context. The
    output has shape (batch, length, 256).
    """

    def __init__(self, shape: GptShape) -> None:
        """Initialises the weights from torch's global generator."""
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
        frequencies = 10_000.0 ** -(torch.arange(half, device=text.device) / half)
        angles = torch.outer(torch.arange(text.shape[1], device=text.device), frequencies)
        rotations = torch.stack((angles.cos(), angles.sin()))
        x = self.bytes(text)
        for block in self.blocks:
            x = block(x, rotations)
        scores: Tensor = self.scores(self.norm(x))
        return scores

    @torch.no_grad()
    def generate(self, start: bytes, count: int, temperature: float, seed: int) -> bytes:
        """Returns `start` followed by `count` sampled bytes.

        Args:
            start: At least one byte.
            count: The number of bytes to add.
            temperature: A number above 0; lower values give more likely text.
            seed: The seed of the sampling.
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

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        x = x + self.attention_out(self._attend(self.attention_norm(x), rotations))
        y: Tensor = x + self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x))))
        return y

    def _attend(self, x: Tensor, rotations: Tensor) -> Tensor:
        batch, length, width = x.shape
        packed = self.attention_in(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, rotations), _rotate(key, rotations)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, width)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotates pairs of numbers, one from each half of the last dimension, by (cosines, sines)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotations.to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
