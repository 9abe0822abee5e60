"""Simulated links and ranks for test_codec_choice.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fastgpu_comm import codecs
from fastgpu_comm.codec_choice import CodecChooser

NONE = codecs.encoding_of(None)
BITS = {"none": 32, "int8": 8.25, "int4": 4.5}
MATRIX, BIAS = 8e6, 4e3  # bytes
BUCKETS = [[0, 1], [2, 3], [4, 5], [6, 7]]  # a matrix and a bias each
ONE_BUCKET = [[0, 1, 2, 3, 4, 5, 6, 7]]
READY_S = 0.010  # between the buckets
SEARCH = 100  # passes in which a choice is made


@dataclass
class Link:
    """The link of all ranks, and what codecs cost by byte of float32."""

    bytes_per_s: float
    codec_s: dict[str, float] = field(default_factory=lambda: {"int8": 1e-10, "int4": 1.5e-10})
    noise: float = 0.0
    start_s: float = 0.0  # of each reduction


class Model:
    """One rank: stands for torch's Reducer and for GradientReducer."""

    def __init__(
        self, link: Link, skew_s: float = 0.0, buckets: Sequence[Sequence[int]] = BUCKETS
    ) -> None:
        self.link = link
        self.buckets = [list(bucket) for bucket in buckets]
        self.encodings = [NONE] * 8
        self.passes, self.lead_s, self.skew_s = 0, 0.001, skew_s
        self.random = random.Random(7)
        self.pending: torch.Tensor | None = None
        self.shared: torch.Tensor | None = None
        self.parts: list[dict[str, Any]] = []

    def set_encodings(self, encodings: list[tuple[str, int, int | None]]) -> None:
        self.encodings = encodings

    def least_of(self, values: torch.Tensor) -> None:
        self.pending = values

    def take_least(self) -> torch.Tensor | None:
        shared, self.shared = self.shared, None
        return shared

    def stats(self) -> list[dict[str, Any]]:
        return self.parts

    def run(self) -> float:
        """Runs a backward pass and returns its time."""
        self.passes += 1
        self.parts, end = [], 0.0
        for bucket in self.buckets:
            (codec,) = {self.encodings[index][0] for index in bucket}
            size = sum(BIAS if index % 2 else MATRIX for index in bucket)
            ready = max(index // 2 for index in bucket) * READY_S
            taken = size * BITS[codec] / 32 / self.link.bytes_per_s
            taken += size * self.link.codec_s.get(codec, 0)
            taken += self.link.start_s
            taken *= 1 + self.link.noise * self.random.uniform(-1, 1)
            end = max(end, ready) + taken
            part = {"parameters": bucket, "codec": codec, "bytes": size}
            self.parts.append({**part, "launched_s": ready, "done_s": end + self.skew_s})
        return self.lead_s + end


class Group:
    """The backend of two ranks."""

    def __init__(self, on_one_host: bool = False) -> None:
        self.on_one_host = on_one_host

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 0


def chooser_of(model: Any, allowed: list[codecs.Codec | None]) -> CodecChooser:
    (names,) = named(ONE_BUCKET)
    sizes = [int(BIAS if index % 2 else MATRIX) // 4 for index in range(8)]
    parameters = [torch.empty(size, device="meta") for size in sizes]
    return CodecChooser(model, model, names, parameters, allowed)


def restart(
    chooser: CodecChooser, on_one_host: bool = False, plan: list[list[str]] | None = None
) -> None:
    backend: Any = Group(on_one_host)
    chooser.restart(backend, plan)


def named(buckets: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[f"p{index}" for index in bucket] for bucket in buckets]


class World:
    """Some ranks with a chooser each."""

    def __init__(
        self, link: Link, ranks: int = 1, buckets: Sequence[Sequence[int]] = BUCKETS
    ) -> None:
        self.models = [Model(link, 0.005 * rank, buckets) for rank in range(ranks)]
        allowed: list[codecs.Codec | None] = [
            None if index % 2 else codecs.int8 for index in range(8)
        ]
        self.choosers = [chooser_of(model, allowed) for model in self.models]
        for chooser in self.choosers:
            restart(chooser)

    def run(self, passes: int) -> float:
        """Runs passes and returns the time of the last."""
        time = 0.0
        for _ in range(passes):
            for chooser in self.choosers:
                chooser.before_pass()
            assert all(model.buckets == self.models[0].buckets for model in self.models)
            assert all(model.encodings == self.models[0].encodings for model in self.models)
            time = max([model.run() for model in self.models])
            values = [model.pending for model in self.models if model.pending is not None]
            for model in self.models:
                if values:
                    model.shared = torch.stack(values).amin(0)
                model.pending = None
        return time

    def codecs(self) -> list[str]:
        return [bucket["codec"] for bucket in self.report()["buckets"]]

    def report(self) -> dict[str, Any]:
        return self.choosers[0].report()
