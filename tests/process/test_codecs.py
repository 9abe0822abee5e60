"""all_reduce with encoded frames: Options(codec=...) and FASTGPU_CODEC."""

from __future__ import annotations

import pytest
import torch
from tests.process import codec_checks as checks
from tests.process.ranks import Ranks, Setting

CODECS = ("fp16", "bf16", "int8", "int4")
TCP = {"FASTGPU_TRANSPORT": "tcp"}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("world", [2, 3, 8])
def test_sums(ranks: Ranks, world: int, codec: str) -> None:
    ranks.run(checks.sums, Setting(world), codec)


@pytest.mark.parametrize("codec", CODECS)
def test_sums_over_tcp(ranks: Ranks, codec: str) -> None:
    ranks.run(checks.sums, Setting(3, environment=TCP), codec)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_sent(ranks: Ranks, codec: str) -> None:
    ranks.run(checks.bytes_sent, Setting(3), codec)


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(ranks: Ranks, codec: str, dtype: torch.dtype) -> None:
    ranks.run(checks.half_precision, Setting(3), codec, dtype)
    ranks.run(checks.bytes_sent, Setting(3), codec, dtype)


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_what_is_not_encoded(ranks: Ranks, codec: str) -> None:
    ranks.run(checks.exact_otherwise, Setting(3), codec)


@pytest.mark.parametrize("codec", CODECS)
def test_numbers_that_are_not_finite(ranks: Ranks, codec: str) -> None:
    ranks.run(checks.not_finite, Setting(3), codec)


def test_dtypes_that_differ(ranks: Ranks) -> None:
    ranks.run(checks.mismatch_of_dtypes, Setting(3))
    ranks.kill()


def test_codecs_that_differ(ranks: Ranks) -> None:
    ranks.run(checks.mismatch, Setting(3))
