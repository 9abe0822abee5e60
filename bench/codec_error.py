"""Measures what codecs lose of real gradients: those of the model of `fastgpu-comm train`.

    python bench/codec_error.py [--steps 300] [--every 100]

Trains the model on one process and applies each format to the gradients of its matrices. Prints a
Markdown table: bits per element; the relative L2 error by parameter, median and worst; the share of
values that became zero. The formats are emulated in torch, so that other block sizes and scales can
be compared with those that the library has; docs/compression.md shows the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fastgpu_comm.trainer.gpt import Gpt, GptShape
from fastgpu_comm.trainer.text import TextWindows, standard_library_text

Rounding = Callable[[Tensor], Tensor]


def exact(scale: Tensor) -> Tensor:
    """Keeps the scale in float32."""
    return scale


def bfloat16_away(scale: Tensor) -> Tensor:
    """Rounds away from zero to 8 significant bits."""
    bits = scale.view(torch.int32)
    return ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32)


def float16_nearest(scale: Tensor) -> Tensor:
    """Rounds to the nearest float16; small scales lose bits."""
    return scale.half().float()


def log_away(scale: Tensor) -> Tensor:
    """Rounds away from zero to a power of 2^(1/8), as an 8-bit scale with a sign would."""
    exponent = torch.ceil(torch.log2(scale.abs().clamp_min(1e-30)) * 8) / 8
    return scale.sign() * torch.exp2(exponent)


@dataclasses.dataclass(frozen=True)
class Format:
    """A block codec: the bits of a code, the block size, and how the scale is stored."""

    code_bits: int
    block: int
    scale_bits: int
    rounding: Rounding
    signed: bool = True  # the scale is that of the extreme, with its sign

    @property
    def bits(self) -> float:
        """The bits per element."""
        return self.code_bits + self.scale_bits / self.block

    @property
    def name(self) -> str:
        """The name in the table."""
        rule = "signed extreme" if self.signed else "largest magnitude"
        scale = self.rounding.__name__.replace("_", ", ")
        return f"int{self.code_bits}, block {self.block}, {rule}, {scale}"

    def apply(self, gradient: Tensor) -> Tensor:
        """Returns what the gradient, a vector, decodes to."""
        padded = functional.pad(gradient, (0, -len(gradient) % self.block)).view(-1, self.block)
        extreme = padded.gather(1, padded.abs().argmax(1, keepdim=True))
        largest = 1 << (self.code_bits - 1)
        if self.signed:
            scale = self.rounding(extreme / -largest)
            lowest = -largest
        else:
            scale = self.rounding(extreme.abs() / (largest - 1))
            lowest = 1 - largest
        safe = torch.where(scale == 0, 1.0, scale)
        codes = torch.round(padded / safe).clamp(lowest, largest - 1)
        return (codes * scale).view(-1)[: len(gradient)]


@dataclasses.dataclass(frozen=True)
class Signs:
    """One bit an element: its sign, times the mean magnitude of the block, or of that sign."""

    block: int
    both_signs: bool = False  # a mean for each sign

    @property
    def bits(self) -> float:
        """The bits per element."""
        return 1 + 16 * (1 + self.both_signs) / self.block

    @property
    def name(self) -> str:
        """The name in the table."""
        means = "mean of each sign" if self.both_signs else "mean magnitude"
        return f"1bit, block {self.block}, {means}"

    def apply(self, gradient: Tensor) -> Tensor:
        """Returns what the gradient, a vector, decodes to."""
        padded = functional.pad(gradient, (0, -len(gradient) % self.block)).view(-1, self.block)
        positive = padded >= 0
        if not self.both_signs:
            mean = padded.abs().mean(1, keepdim=True)
            decoded = torch.where(positive, mean, -mean)
        else:
            above = padded.clamp_min(0).sum(1, keepdim=True) / positive.sum(1, keepdim=True)
            below = padded.clamp_max(0).sum(1, keepdim=True) / (~positive).sum(1, keepdim=True)
            decoded = torch.where(positive, above, below)
        return decoded.bfloat16().float().view(-1)[: len(gradient)]


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest of every `share` elements in blocks of 4096, with indices of 12 bits."""

    share: int
    value_bits: int  # 16: bfloat16; 8: steps of the block's largest; 4: sign and power of two

    @property
    def bits(self) -> float:
        """The bits per element."""
        return (12 + self.value_bits) / self.share + (8 / 4096 if self.value_bits < 16 else 0)

    @property
    def name(self) -> str:
        """The name in the table."""
        values = {16: "bfloat16", 8: "8 bits", 4: "sign, power of two"}[self.value_bits]
        return f"topk, 1 of {self.share}, {values}"

    def apply(self, gradient: Tensor) -> Tensor:
        """Returns what the gradient, a vector, decodes to."""
        padded = functional.pad(gradient, (0, -len(gradient) % 4096)).view(-1, 4096)
        indices = padded.abs().topk(-(-4096 // self.share), dim=1).indices
        values = padded.gather(1, indices)
        if self.value_bits == 16:
            values = values.bfloat16().float()
        else:
            extreme = values.abs().amax(1, keepdim=True).clamp_min(1e-30)
            if self.value_bits == 8:
                values = torch.round(values / extreme * 127) / 127 * extreme
            else:
                powers = torch.exp2(torch.floor(torch.log2(values.abs() / 0.75)))
                largest = torch.exp2(torch.floor(torch.log2(extreme / 0.75)))
                values = torch.where(powers < largest / 64, 0, powers * values.sign())
        return torch.zeros_like(padded).scatter(1, indices, values).view(-1)[: len(gradient)]


FORMATS: tuple[Format | Signs | Largest, ...] = (
    Format(8, 64, 16, bfloat16_away),
    Format(8, 128, 16, bfloat16_away),
    Format(8, 64, 16, bfloat16_away, signed=False),
    Format(4, 32, 16, bfloat16_away),
    Format(4, 32, 16, exact),
    Format(4, 32, 16, float16_nearest),
    Format(4, 32, 16, bfloat16_away, signed=False),
    Format(4, 16, 8, log_away),
    Format(4, 64, 16, bfloat16_away),
    Format(4, 32, 8, log_away),
    Signs(64),
    Signs(128),
    Signs(256),
    Signs(1024),
    Signs(256, both_signs=True),
    Largest(64, 4),
    Largest(80, 8),
    Largest(111, 16),
    Largest(64, 16),
    Largest(32, 4),
)


def gradients(steps: int, every: int) -> Iterator[Tensor]:
    """Trains, and yields the gradient of each matrix at every `every`-th step."""
    torch.manual_seed(0)
    model = Gpt(GptShape(context=128, layers=2, width=128, heads=4))
    text, _ = standard_library_text(4_000_000)
    windows = TextWindows(text, model.shape.context)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, betas=(0.9, 0.98))
    for step in range(1, steps + 1):
        chosen = [windows[int(i)] for i in torch.randint(len(windows), (16,))]
        source, target = (torch.stack(part) for part in zip(*chosen, strict=True))
        loss = functional.cross_entropy(model(source).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        if step % every == 0:
            yield from (
                parameter.grad.flatten().clone()
                for parameter in model.parameters()
                if parameter.grad is not None and parameter.dim() == 2
            )
        optimizer.step()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Error of block codecs on real gradients.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=100)
    arguments = parser.parse_args()
    errors: dict[Format | Signs | Largest, list[float]] = {one: [] for one in FORMATS}
    zeroed = dict.fromkeys(FORMATS, 0)
    values = 0
    for gradient in gradients(arguments.steps, arguments.every):
        values += int(gradient.count_nonzero())
        for one in FORMATS:
            decoded = one.apply(gradient)
            errors[one].append(float((decoded - gradient).norm() / gradient.norm()))
            zeroed[one] += int(((decoded == 0) & (gradient != 0)).sum())
    print("| bits | format | median error | worst error | became zero |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for one in FORMATS:
        found = [error for error in errors[one] if not math.isnan(error)]
        print(
            f"| {one.bits:.3f} | {one.name} | {statistics.median(found):.4f} | "
            f"{max(found):.4f} | {100 * zeroed[one] / values:.1f}% |"
        )


if __name__ == "__main__":
    main()
