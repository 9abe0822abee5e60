"""fastgpu_comm.codecs: names, policies, and encoding from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastgpu_comm
from fastgpu_comm import codecs

BITS = {"fp16": 16, "bf16": 16, "int8": 8.25, "int4": 4.5, "1bit": 1.125}
BITS["topk"] = 8 * (96 * 2 + 2) / (64 * 96)
# Relative error of the norm. With normally distributed numbers 1bit loses sqrt(1 - 2 / pi).
LOST = {"topk": 0.95, "1bit": 0.65}


@pytest.mark.parametrize("name", codecs.NAMES)
def test_it_decodes_what_it_encodes(name: str) -> None:
    codec = codecs.find(name)
    assert codec is not None
    values = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    encoded = codec.encode(values)
    assert encoded.numel() * 8 == values.numel() * BITS[name]
    decoded = codec.decode(encoded, torch.empty(64, 96))
    assert 0 < float((decoded - values).norm()) < LOST.get(name, 0.15) * float(values.norm())
    twice = codec.decode(encoded, decoded.clone(), add=True)
    assert torch.equal(twice, 2 * decoded)


def test_a_residual_holds_what_encoding_lost() -> None:
    values, residual = torch.randn(1000), torch.zeros(1000)
    total = torch.zeros(1000)
    for _ in range(10):
        codecs.int4.decode(codecs.int4.encode(values, residual), total, add=True)
    torch.testing.assert_close(total + residual, 10 * values, rtol=1e-5, atol=1e-4)


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="residual_bits is 16; allowed: 8, 32"):
        codecs.Codec("int4", feedback=True, residual_bits=16)
    with pytest.raises(ValueError, match="needs feedback=True"):
        codecs.Codec("int4", feedback=False, residual_bits=8)
    with pytest.raises(ValueError, match=r"seed is 1; only rounding='stochastic' allows one"):
        codecs.Codec("int8", seed=1)
    coarse = codecs.Codec("int4", feedback=True, residual_bits=8)
    with pytest.raises(ValueError, match="residual_bits is 8; codec_hook allows 32"):
        codecs.refuse_options(coarse, "codec_hook")


def test_error_feedback_is_the_default_of_all_but_the_16_bit_codecs() -> None:
    for name in codecs.NAMES:
        codec = codecs.Codec(name)
        assert codec.feedback is (name not in ("fp16", "bf16"))
        assert codec == codecs.find(name)
    with pytest.raises(ValueError, match="residual_bits=8 needs feedback=True"):
        codecs.Codec("bf16", residual_bits=8)


def test_stochastic_rounding() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    for name, codes in (("int8", 127), ("int4", 7)):
        codec = codecs.Codec(name, feedback=False, rounding="stochastic", seed=5)
        first = codec.encode(values)
        assert torch.equal(first, codec.encode(values))
        assert not torch.equal(first, codec.encode(values, key=1))
        other = codecs.Codec(name, feedback=False, rounding="stochastic", seed=6)
        assert not torch.equal(first, other.encode(values))
        total, encodings = torch.zeros(1000), 2000
        for key in range(encodings):
            codec.decode(codec.encode(values, key=key), total, add=True)
        # A step, of the largest block, has a standard deviation of at most a half.
        step = float(values.abs().max()) / codes * (1 + 2**-7)
        error = (total / encodings - values).abs().max()
        assert error < step * (6 * 0.5 / encodings**0.5 + 2**-15)
        residual = torch.zeros(1000)
        decoded = codec.decode(codec.encode(values, residual), torch.empty(1000))
        assert torch.equal(residual, values - decoded)
    for options, message in (
        ({"name": "topk", "rounding": "stochastic"}, "only int8 and int4"),
        ({"name": "int8", "rounding": "up"}, "'up'; allowed: 'nearest', 'stochastic'"),
        ({"name": "int8", "seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            codecs.Codec(feedback=True, **options)
    codecs.refuse_options(codec, "OuterOptimizer")
    with pytest.raises(ValueError, match="rounding is 'stochastic'; compress allows 'nearest'"):
        codecs.refuse_options(codec, "compress", allows_stochastic=False)


def test_what_needs_the_cpu_names_what_works_elsewhere() -> None:
    codecs.refuse_device("cpu", "codec_hook")
    with pytest.raises(ValueError, match=r"codec_hook is for .* these are on cuda\. .*Distributed"):
        codecs.refuse_device("cuda", "codec_hook")


def test_a_sequence_of_numbers_has_a_key_of_its_own() -> None:
    assert codecs.derived_key(0) == 0xE220A8397B1DCDAF  # SplitMix64 with the seed 0
    sequences = [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**64 - 1,), (0, 0, 0)]
    assert len({codecs.derived_key(*numbers) for numbers in sequences}) == len(sequences)


def test_names_and_policies() -> None:
    assert fastgpu_comm.codecs.int8 is codecs.find("int8") is codecs.find(codecs.int8)
    assert codecs.find(None) is codecs.find("none") is None
    with pytest.raises(ValueError, match=r"no codec 'int9'; there are fp16.*Did you mean 'int8'"):
        codecs.find("int9")
    nothing: Any = 8
    with pytest.raises(TypeError, match=r"codec is 8; it must be a name or a codecs\.Codec$"):
        codecs.find(nothing)
    by_name: Any = lambda name, shape, dtype: "int8"  # noqa: E731
    with pytest.raises(TypeError, match=r"only DistributedDataParallel and hooks\.CodecState take"):
        codecs.find(by_name)
    chosen = [
        codecs.choose("int8", "weight", torch.zeros(shape, dtype=dtype))
        for shape, dtype in (
            ((64, 64), torch.float32),
            ((64, 63), torch.float32),
            ((8192,), torch.float32),
            ((64, 64), torch.bfloat16),
        )
    ]
    assert chosen == [codecs.int8, None, None, None]


def test_one_bit_is_for_sgd_with_feedback() -> None:
    with pytest.raises(ValueError, match="1bit does not train without error feedback"):
        codecs.Codec("1bit", feedback=False)
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    codecs.check_optimizer("1bit", torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    adaptive = torch.optim.AdamW(parameters)
    for codec in (None, "int8", "auto", codecs.topk):
        codecs.check_optimizer(codec, adaptive)
    with pytest.raises(ValueError, match="codec 1bit does not work with AdamW"):
        codecs.check_optimizer("1bit", adaptive)
    insists = codecs.Codec("1bit", any_optimizer=True)
    codecs.check_optimizer(insists, adaptive)
    # A codec that an earlier version pickled does not have the field.
    earlier = codecs.Codec.__new__(codecs.Codec)
    earlier.__dict__.update({k: v for k, v in vars(insists).items() if k != "any_optimizer"})
    assert earlier == codecs.one_bit
    with pytest.raises(ValueError, match="any_optimizer is for 1bit; int8 works with every optim"):
        codecs.Codec("int8", any_optimizer=True)
    nothing: Any = None
    with pytest.raises(ValueError, match="any_optimizer is None; allowed: True, False"):
        codecs.Codec("1bit", any_optimizer=nothing)


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values is of torch.float64 on cpu; it must be a cont"):
        codecs.int8.encode(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="residual has 3 elements, and values has 4"):
        codecs.int8.encode(torch.zeros(4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"encoded is of torch.*; it must be a contiguous uint8"):
        codecs.int8.decode(torch.zeros(4), torch.zeros(4))
    numbers: Any = [0.0] * 4
    acts: tuple[Callable[[], object], ...] = (
        lambda: codecs.int8.encode(numbers),
        lambda: codecs.int8.encode(torch.zeros(4), numbers),
        lambda: codecs.int8.decode(numbers, torch.zeros(4)),
        lambda: codecs.int8.decode(torch.zeros(6, dtype=torch.uint8), numbers),
    )
    for act in acts:
        with pytest.raises(TypeError, match="is of class list; it must be a contiguous"):
            act()
    key: Any = "1"
    with pytest.raises(ValueError, match="key is '1'; it must be an integer"):
        codecs.int8.encode(torch.zeros(4), key=key)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="4 elements take 6 bytes"):
        codecs.int8.decode(torch.zeros(4, dtype=torch.uint8), torch.zeros(4))
