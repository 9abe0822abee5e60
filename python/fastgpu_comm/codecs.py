"""The codecs that shorten float32 gradients, and the policies that choose one for a parameter.

    DistributedDataParallel(model, codec="int8")                  a name
    DistributedDataParallel(model, codec=codecs.int4)             an object of this module
    DistributedDataParallel(model, codec=lambda name, shape, dtype: ...)   a policy

docs/compression.md defines what each codec does to the numbers and how many bytes it takes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from fastgpu_comm import arguments, names

# Smaller parameters are reduced uncompressed: they add nothing to the traffic.
LEAST_ELEMENTS = 4096

_BY_CODEC: Any = None  # stands for the default, which depends on the name


@dataclasses.dataclass(frozen=True)
class Codec:
    """A codec of float32 numbers.

    Attributes:
        name: "fp16", "bf16", "int8", "int4", "topk" or "1bit".
        feedback: Error feedback: every rank keeps what encoding took from its gradients, and adds
            it to the gradients of the next step. By default all but fp16 and bf16 do; 1bit must.
        residual_bits: With 8, a residual is kept in the format of int8 and takes a quarter of the
            memory. For `DistributedDataParallel` only.
        rounding: "nearest", or "stochastic" for int8 and int4: up with the probability of the
            fraction, so that the mean of many encodings is the number. Not for weights.
        seed: Of stochastic rounding, refused without. It is combined with the rank and the step, so
            that no two of them have the same random bits.
        any_optimizer: Lets 1bit train with Adam and its like, which is refused by default: see
            `check_optimizer`.
    """

    name: str
    feedback: bool = _BY_CODEC
    residual_bits: int = 32
    rounding: str = "nearest"
    seed: int = 0
    any_optimizer: bool = False

    def __post_init__(self) -> None:
        """Refuses an unknown name, and options that do not fit the codec."""
        if self.name not in NAMES:
            raise _unknown(self.name, NAMES)
        if self.feedback is _BY_CODEC:
            object.__setattr__(self, "feedback", self.name not in ("fp16", "bf16"))
        if self.name == "1bit" and not self.feedback:
            raise ValueError("1bit does not train without error feedback; set feedback=True")
        if not isinstance(self.feedback, bool):
            raise ValueError(f"feedback is {self.feedback!r}; allowed: True, False")
        if not isinstance(self.residual_bits, int) or self.residual_bits not in (8, 32):
            raise ValueError(f"residual_bits is {self.residual_bits!r}; allowed: 8, 32")
        if self.residual_bits == 8 and not self.feedback:
            raise ValueError("residual_bits=8 needs feedback=True: else there are no residuals")
        if self.rounding not in ("nearest", "stochastic"):
            raise ValueError(f"rounding is {self.rounding!r}; allowed: 'nearest', 'stochastic'")
        if self.rounding == "stochastic" and self.name not in ("int8", "int4"):
            raise ValueError(f"only int8 and int4 round stochastically, not {self.name}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed!r}; it must be an integer from 0 to 2**64 - 1")
        if self.seed and self.rounding == "nearest":
            raise ValueError(f"seed is {self.seed}; only rounding='stochastic' allows one")
        if not isinstance(self.any_optimizer, bool):
            raise ValueError(f"any_optimizer is {self.any_optimizer!r}; allowed: True, False")
        if self.any_optimizer and self.name != "1bit":
            raise ValueError(f"any_optimizer is for 1bit; {self.name} works with every optimizer")

    @property
    def random_seed(self) -> int | None:
        """The seed if the codec rounds stochastically, else None."""
        return self.seed if self.rounding == "stochastic" else None

    def encode(
        self, values: torch.Tensor, residual: torch.Tensor | None = None, *, key: int = 0
    ) -> torch.Tensor:
        """Encodes float32 numbers.

        Args:
            values: A contiguous float32 tensor on the CPU.
            residual: A contiguous tensor of the same shape, for error feedback: it is added to the
                values, and the error of the encoding is left in it.
            key: With stochastic rounding: each number draws other random bits from the seed.

        Returns:
            The encoded bytes, a uint8 tensor of one dimension.
        """
        from fastgpu_comm import native

        _check("values", values)
        if residual is not None:
            _check("residual", residual)
            if residual.numel() != values.numel():
                raise ValueError(
                    f"residual has {residual.numel()} elements, and values has {values.numel()}; "
                    "both must have the same number"
                )
        if not isinstance(key, int) or not 0 <= key < 2**64:
            raise ValueError(f"key is {key!r}; it must be an integer from 0 to 2**64 - 1")
        return native.encode(self.name, values, residual, self.random_seed, key)

    def decode(
        self, encoded: torch.Tensor, target: torch.Tensor, *, add: bool = False
    ) -> torch.Tensor:
        """Decodes `encode`'s result into `target`, or adds it to `target`; returns `target`.

        Args:
            encoded: The bytes, a contiguous uint8 tensor.
            target: A contiguous float32 tensor on the CPU, with as many elements as were encoded.
            add: Whether to add to the target's numbers.

        Raises:
            InvalidArgumentError: The number of bytes does not fit the target.
        """
        from fastgpu_comm import native

        _check("target", target)
        if not isinstance(encoded, torch.Tensor):
            raise arguments.wrong_type("encoded", encoded, "a contiguous uint8 tensor on the CPU")
        _refuse_unless("encoded", encoded, torch.uint8)
        native.decode(self.name, encoded, target, add)
        return target


ON_GPUS = ("fp16", "bf16", "int8", "int4")
NAMES = ("fp16", "bf16", "int8", "int4", "topk", "1bit")
AUTO = "auto"  # which DistributedDataParallel and Trainer know: see codec_choice

# The 16-bit codecs lose less than the gradient's own noise, and never round a small number to zero.
fp16 = Codec("fp16")
bf16 = Codec("bf16")
int8 = Codec("int8")
int4 = Codec("int4")
topk = Codec("topk")  # the largest 1.6%
one_bit = Codec("1bit")  # for SGD, with or without momentum; refused for Adam

_BY_NAME = {codec.name: codec for codec in (fp16, bf16, int8, int4, topk, one_bit)}

# torch's optimizers that divide a gradient by the size of past gradients of the same element.
_ADAPTIVE = (
    torch.optim.Adadelta,
    torch.optim.Adafactor,
    torch.optim.Adagrad,
    torch.optim.Adam,  # AdamW is one
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SparseAdam,
)

# From a parameter's name, shape and dtype. None or "none" means uncompressed.
Policy: TypeAlias = Callable[[str, torch.Size, torch.dtype], "Codec | str | None"]


def _unknown(name: str, known: Sequence[str]) -> ValueError:
    if name == AUTO:
        listed = ", ".join(known)
        return ValueError(f"codec 'auto' is for DistributedDataParallel; here there are {listed}")
    hint = names.suggestion(str(name), known)
    return ValueError(f"no codec {name!r}; there are {', '.join(known)}.{hint}")


def find(codec: Codec | str | None, others: Sequence[str] = ()) -> Codec | None:
    """Returns the codec of that name; None for None and "none".

    Args:
        codec: A name, or a codec.
        others: Names that the caller knows itself, for the message of an error.

    Raises:
        TypeError: `codec` is neither a codec nor a name.
        ValueError: There is no codec of that name; the message lists those that there are.
    """
    if codec is None or codec == "none" or isinstance(codec, Codec):
        return None if codec == "none" else codec  # type: ignore[return-value]
    if not isinstance(codec, str):
        wanted = "a name or a codecs.Codec"
        if callable(codec):
            wanted += ": only DistributedDataParallel and hooks.CodecState take a function"
        raise arguments.wrong_type("codec", codec, wanted)
    if codec not in _BY_NAME:
        raise _unknown(codec, (*NAMES, *others))
    return _BY_NAME[codec]


def check_optimizer(
    codec: Codec | str | None, optimizer: torch.optim.Optimizer, *, parameter: str | None = None
) -> None:
    """Refuses 1bit for adaptive optimizers, such as Adam, unless it has `any_optimizer`.

    Such an optimizer divides each element by the size of its past gradients. 1bit makes all
    elements of a block equally large, so all would be scaled alike. `Trainer` calls this;
    `DistributedDataParallel`, `hooks.codec_hook` and `fsdp.compress` do so when an optimizer takes
    its first step. It knows torch's optimizers and classes derived from them, and accepts all
    others.

    Args:
        codec: The codec.
        optimizer: The optimizer.
        parameter: The name of a parameter that has the codec, for the error.

    Raises:
        ValueError: The codec is 1bit and the optimizer is such a one.
    """
    found = find(None if codec == AUTO else codec)
    if found is None or found.name != "1bit" or found.any_optimizer:
        return
    if isinstance(optimizer, _ADAPTIVE):
        whose = "" if parameter is None else f" of parameter {parameter!r}"
        raise ValueError(
            f"codec 1bit{whose} does not work with {type(optimizer).__name__}, which scales each "
            "element by the size of its past gradients; use SGD, with or without momentum, or "
            "another codec. To insist, use codecs.Codec('1bit', any_optimizer=True)"
        )


def for_matrices(codec: Codec | str) -> Policy:
    """Returns the policy that a codec alone stands for.

    It encodes the parameters with two or more dimensions and at least `LEAST_ELEMENTS` elements.
    Biases and norms stay exact: they are small, and sensitive.
    """
    found = find(codec)

    def policy(name: str, shape: torch.Size, dtype: torch.dtype) -> Codec | None:
        large = len(shape) >= 2 and shape.numel() >= LEAST_ELEMENTS
        return found if large else None

    return policy


def check_argument(codec: Any) -> None:
    """Raises TypeError if `codec` is neither a name, a codec, None nor a policy function."""
    if callable(codec):
        arguments.check_policy("codec", codec)
    elif not (codec is None or isinstance(codec, (str, Codec))):
        wanted = "a name, a codecs.Codec, or a function (name, shape, dtype)"
        raise arguments.wrong_type("codec", codec, wanted)


def choose(codec: Codec | str | Policy | None, name: str, parameter: torch.Tensor) -> Codec | None:
    """Returns the codec of one parameter. Only float32 gradients are ever encoded."""
    if codec is None:
        return None
    check_argument(codec)
    policy = codec if callable(codec) else for_matrices(codec)
    chosen = policy(name, parameter.shape, parameter.dtype)
    if not (chosen is None or isinstance(chosen, (str, Codec))):
        wanted = "a name, a Codec or None"
        raise arguments.wrong_type(f"the policy's result for {name!r}", chosen, wanted)
    try:
        found = find(chosen)
    except ValueError as error:
        if not callable(codec):
            raise
        raise ValueError(f"the policy's result for {name!r}: {error}") from None
    return found if parameter.dtype == torch.float32 else None


def encoding_of(codec: Codec | None) -> tuple[str, int, int | None]:
    """Returns what GradientReducer takes: name, bits of the residual or 0, and random seed."""
    if codec is None:
        return "none", 0, None
    return codec.name, codec.residual_bits if codec.feedback else 0, codec.random_seed


def check_chosen(
    codec: Codec | Policy | None,
    chosen: Sequence[Codec | None],
    device_type: str,
    automatic: bool,
) -> None:
    """Warns if `codec` is used for no parameter.

    Raises:
        ValueError: Gradients on this kind of device cannot be encoded as chosen.
    """
    if isinstance(codec, Codec) and not any(chosen):
        warnings.warn(
            f"codec {codec.name} compresses nothing here: it is for float32 parameters with two or "
            f"more dimensions and {LEAST_ELEMENTS} or more elements; a policy function may choose "
            "smaller ones",
            stacklevel=6,  # who made the model: torch's constructor and ours lie between
        )
    if device_type == "cpu":
        return
    if automatic:
        raise ValueError(
            f"codec='auto' is for parameters on the CPU, and these are on {device_type}; name a "
            f"codec, one of {', '.join(ON_GPUS)}"
        )
    for each in chosen:
        if each is None:
            continue
        if each.name not in ON_GPUS:
            raise ValueError(
                f"codec {each.name} is for parameters on the CPU, and these are on {device_type}; "
                f"use one of {', '.join(ON_GPUS)}"
            )
        if each.feedback and each.residual_bits != 32:
            raise ValueError(
                f"residual_bits={each.residual_bits} is for parameters on the CPU, and these are "
                f"on {device_type}; use 32"
            )


def refuse_options(codec: Codec | None, user: str, allows_stochastic: bool = True) -> None:
    """Raises ValueError if the codec has an option that `user` does not support.

    Args:
        codec: The codec.
        user: The function or class, for the message.
        allows_stochastic: Whether stochastic rounding is allowed.
    """
    if codec is None:
        return
    if codec.residual_bits != 32:
        raise ValueError(
            f"residual_bits is {codec.residual_bits}; {user} allows 32. Leave it out, or use "
            "fastgpu_comm.DistributedDataParallel"
        )
    if codec.rounding != "nearest" and not allows_stochastic:
        raise ValueError(
            f"rounding is {codec.rounding!r}; {user} allows 'nearest'. Leave it out: each gathering"
            " of a weight would round it differently"
        )


def refuse_device(device_type: str, user: str) -> None:
    """Raises ValueError unless parameters are on the CPU, as `user` needs them."""
    if device_type != "cpu":
        raise ValueError(
            f"{user} is for parameters on the CPU, and these are on {device_type}. There, use "
            f"fastgpu_comm.DistributedDataParallel with codec {', '.join(ON_GPUS)}"
        )


def derived_key(*numbers: int) -> int:
    """Returns a key of stochastic rounding for each sequence of numbers, of 64 bits each.

    It folds them as GradientReducer does: csrc/codec/random_key.h.
    """
    key = 0
    for number in numbers:
        key = (key + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB % 2**64
        key ^= key >> 31
    return key


def _check(name: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise arguments.wrong_type(name, tensor, "a contiguous float32 tensor on the CPU")
    _refuse_unless(name, tensor, torch.float32)


def _refuse_unless(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    contiguous = tensor.is_contiguous()
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not contiguous:
        given = f"{tensor.dtype} on {tensor.device}" + ("" if contiguous else ", not contiguous")
        wanted = f"a contiguous {str(dtype).removeprefix('torch.')} tensor on the CPU"
        raise ValueError(f"{name} is of {given}; it must be {wanted}")
