"""Compressed collectives for torch's `fully_shard` (FSDP2) on CPU tensors.

    fully_shard(layer)  # each
    fully_shard(model)
    compressed = fsdp.compress(model, gradients="int8", weights="int8")

The gradients' reduce-scatter and the weights' all-gather then carry encoded bytes. It uses
`set_custom_reduce_scatter` and `set_custom_all_gather` of torch, and works over any process group
for CPU tensors. docs/fsdp.md says what to expect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# Only the classes of modules and policies have public names.
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter

from fastgpu_comm import arguments, codecs, optimizer_check, reduced, saved_states
from fastgpu_comm.encoded import ALL_GATHER

# Of the weights, which have no error feedback.
WEIGHT_CODECS = ("fp16", "bf16", "int8", "int4")

# torch 2.13 deprecates the second name.
_REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Allocates:
    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        return torch.empty(math.prod(int(length) for length in size), dtype=dtype, device=device)


class EncodedReduceScatter(_Allocates, ReduceScatter):
    """The reduce-scatter of one FSDP module's gradients.

    Every rank encodes the shares of the others. The owner of a share adds the decoded shares and
    its own in float32, in rank order, so an element is rounded once.

    Attributes:
        residual: What encoding has taken from this rank's gradients so far, in the units of the
            gradient before the division by the number of ranks; None before the first step, and
            without error feedback. Of the shape `residual_shape`: the residual of a parameter's
            n-th part is in the n-th share.
        sums: How many sums were encoded. With stochastic rounding the number of a sum, and that of
            the module, decide its random bits.
        bytes_sent: How many bytes this rank has sent.
    """

    def __init__(self, codec: codecs.Codec, parameters: Sequence[Any], module_index: int) -> None:
        """Takes the codec, the parameters whose gradients are reduced, and the module's number."""
        self.codec = codec
        self.sums = 0
        self._module_index = module_index
        self.residual: torch.Tensor | None = None
        self.bytes_sent = 0
        self._parameters = parameters

    @property
    def residual_shape(self) -> tuple[int, int]:
        """The number of shares, and the number of elements in a share."""
        ranks = _shards(self._parameters[0]) if self._parameters else 1
        return ranks, sum(_padded(each, ranks) for each in self._parameters) // ranks

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        """Reduces; complete on return, also with `async_op`.

        Raises:
            ValueError: The operation is neither SUM nor AVG, or a parameter has no gradient, and
                the codec has error feedback.
        """
        world, rank = group.size(), group.rank()
        if output_tensor.numel() < codecs.LEAST_ELEMENTS or not _encodes(input_tensor):
            work: dist.Work | None = _REDUCE_SCATTER(
                output_tensor, input_tensor, op=op, group=group, async_op=async_op
            )
            self.bytes_sent += (world - 1) * output_tensor.nbytes
            return work
        if op not in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            raise ValueError(
                "a compressed reduce-scatter can be SUM or AVG. set_gradient_divide_factor made it "
                "another operation: also call set_force_sum_reduction_for_comms(True)"
            )
        shares = input_tensor.float().view(world, -1)
        errors: Any = [None] * world
        if self.codec.feedback:
            expected = math.prod(self.residual_shape)
            if input_tensor.numel() != expected:
                raise ValueError(
                    f"{input_tensor.numel()} of {expected} gradients of an FSDP module are reduced."
                    " With error feedback all its parameters need a gradient in every step: call "
                    "set_reduce_scatter_unused_params(True), or give the codec feedback=False"
                )
            if self.residual is None:
                self.residual = torch.zeros(self.residual_shape, dtype=torch.float32)
            errors = self.residual
        # The global rank: replicas of HSDP share the rank within the group.
        numbers = self._module_index, self.sums, dist.get_rank()
        outgoing = [
            self.codec.encode(share, error, key=codecs.derived_key(*numbers, peer))
            for peer, (share, error) in enumerate(zip(shares, errors, strict=True))
            if peer != rank
        ]
        self.sums += 1
        length = outgoing[0].numel()
        lengths = [0 if peer == rank else length for peer in range(world)]
        incoming = torch.empty((world - 1) * length, dtype=torch.uint8)
        dist.all_to_all_single(incoming, torch.cat(outgoing), lengths, lengths, group=group)
        self.bytes_sent += incoming.numel()
        parts = iter(incoming.view(world - 1, length))
        total = torch.zeros(shares.shape[1], dtype=torch.float32)
        for peer in range(world):
            if peer == rank:
                total.add_(shares[rank])
            else:
                self.codec.decode(next(parts), total, add=True)
        output_tensor.copy_(total.div_(world) if op == dist.ReduceOp.AVG else total)
        return None


class EncodedAllGather(_Allocates, AllGather):
    """The all-gather of one FSDP module's weights.

    Every rank decodes all shares, its own too, so all compute with the same weights. The sharded
    parameters, which the optimizer updates, are not rounded.

    Attributes:
        bytes_sent: How many bytes this rank has sent.
    """

    def __init__(self, codec: codecs.Codec) -> None:
        """Takes the codec."""
        self.codec = codec
        self.bytes_sent = 0

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        """Gathers; complete on return, also with `async_op`."""
        world = group.size()
        if input_tensor.numel() < codecs.LEAST_ELEMENTS or not _encodes(input_tensor):
            self.bytes_sent += (world - 1) * input_tensor.nbytes
            work: dist.Work | None = ALL_GATHER(
                output_tensor, input_tensor, group=group, async_op=async_op
            )
            return work
        mine = self.codec.encode(input_tensor.float())
        everyone = torch.empty(mine.numel() * world, dtype=torch.uint8)
        ALL_GATHER(everyone, mine, group=group)
        self.bytes_sent += (world - 1) * mine.numel()
        is_float = output_tensor.dtype == torch.float32
        for share, part in zip(
            output_tensor.view(world, -1), everyone.view(world, -1), strict=True
        ):
            target = share if is_float else torch.empty(share.numel(), dtype=torch.float32)
            self.codec.decode(part, target)
            if not is_float:
                share.copy_(target)
        return None


def _encodes(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.bfloat16) and tensor.device.type == "cpu"


class Compressed:
    """The compressed collectives of a model, by name of the FSDP module.

    Attributes:
        gradients: The reduce-scatters; empty without a codec for gradients.
        weights: The all-gathers; empty without a codec for weights.
    """

    def __init__(self) -> None:
        """Starts empty; `compress` fills it."""
        self.gradients: dict[str, EncodedReduceScatter] = {}
        self.weights: dict[str, EncodedAllGather] = {}

    @property
    def bytes_sent(self) -> int:
        """How many bytes this rank has sent in all of them."""
        return sum(each.bytes_sent for each in self.gradients.values()) + sum(
            each.bytes_sent for each in self.weights.values()
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns this rank's state, for a checkpoint. Each rank saves its own.

        Returns:
            `residuals`: copies of the residuals, by module; empty before the first step. `sums`: by
            module, how many were encoded. `rank` and `world_size`: of the job.
        """
        residuals = {
            name: each.residual.clone()
            for name, each in self.gradients.items()
            if each.residual is not None
        }
        sums = {name: each.sums for name, each in self.gradients.items()}
        return {"residuals": residuals, "sums": sums} | saved_states.origin(None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned on this rank. Modules that it lacks start from zero.

        Raises:
            TypeError: The state or its `residuals` are no dict, or a residual is no tensor.
            ValueError: The state lacks an entry, a residual fits no module, or another rank or
                another number of ranks saved it; nothing has changed then.
        """
        saved_states.check(state, ["residuals", "world_size"], "Compressed.state_dict()")
        world, here = state["world_size"], dist.get_world_size()
        if world != here and state["residuals"]:
            raise ValueError(
                f"the state is of {world} ranks, and here are {here}: its residuals are of other "
                "shards. To start from residuals of zero, do not load it."
            )
        shapes = {
            name: each.residual_shape
            for name, each in self.gradients.items()
            if each.codec.feedback
        }
        unflattened = _unflattened(state["residuals"], shapes)
        saved_states.check_tensors("residual", unflattened, shapes)
        residuals = saved_states.copied(unflattened)
        sums = saved_states.counters(state, "sums", self.gradients)
        for name, each in self.gradients.items():
            each.residual, each.sums = residuals.get(name), sums[name]


def _unflattened(residuals: Any, shapes: Mapping[str, tuple[int, int]]) -> Any:
    """Returns residuals of a state with the flat ones, of earlier versions, in their shapes."""
    if not isinstance(residuals, Mapping):
        return residuals

    def in_shape(name: str, residual: Any) -> Any:
        shape = shapes.get(name)
        is_flat = isinstance(residual, torch.Tensor) and residual.dim() == 1
        fits = is_flat and shape is not None and residual.numel() == math.prod(shape)
        return residual.reshape(shape) if fits else residual

    return {name: in_shape(name, residual) for name, residual in residuals.items()}


def _own(module: Any) -> list[Any]:
    """Returns the trained parameters that belong to an FSDP module and to none inside it."""
    nested: list[Any] = [each for each in module.modules() if isinstance(each, FSDPModule)]
    nested.remove(module)
    inner = {id(parameter) for each in nested for parameter in each.parameters()}
    return [each for each in module.parameters() if each.requires_grad and id(each) not in inner]


def _shards(parameter: Any) -> int:
    """Returns how many ranks share a sharded parameter."""
    sizes = zip(parameter.placements, parameter.device_mesh.shape, strict=True)
    return math.prod(int(size) for placement, size in sizes if placement.is_shard())


def _padded(parameter: Any, world: int) -> int:
    """Returns the elements of a sharded parameter's gradient, with what torch pads it by."""
    (placement,) = [each for each in parameter.placements if each.is_shard()]
    length = int(parameter.shape[placement.dim])
    return int(parameter.numel()) // max(length, 1) * -(-length // world) * world


def compress(
    model: nn.Module,
    gradients: codecs.Codec | str | None = "int8",
    weights: codecs.Codec | str | None = None,
) -> Compressed:
    """Makes the FSDP modules of a model exchange encoded gradients and weights.

    A collective: call it on all ranks with equal arguments, after `fully_shard` and before the
    first forward pass.

    Args:
        model: A model with at least one module that `fully_shard` has wrapped.
        gradients: The codec of the reduce-scatters, with residuals at the sender; None leaves them.
            With "1bit" the first step of an Adam-like optimizer raises ValueError.
        weights: The codec of the all-gathers, "fp16", "bf16", "int8" or "int4"; None leaves them.

    Returns:
        The collectives, with their residuals and counters.

    Raises:
        RuntimeError: The codecs differ between ranks; raised on all of them.
        TypeError: `model` is no module, or a codec neither a codec nor a name.
        ValueError: No module is wrapped, the codec is unknown or not for weights, it has
            `residual_bits`, or for weights stochastic rounding, parameters are not on the CPU, or
            torch refuses custom collectives for a module (one with several meshes).
    """
    if not isinstance(model, nn.Module):
        raise arguments.wrong_type("model", model, "a module after fully_shard(model)")
    gradient_codec, weight_codec = codecs.find(gradients), codecs.find(weights)
    codecs.refuse_options(gradient_codec, "fsdp.compress(gradients=...)")
    codecs.refuse_options(weight_codec, "fsdp.compress(weights=...)", allows_stochastic=False)
    if weight_codec is not None and weight_codec.name not in WEIGHT_CODECS:
        raise ValueError(
            f"weights cannot be {weight_codec.name}, which needs error feedback; allowed: "
            + ", ".join(WEIGHT_CODECS)
        )
    wrapped: dict[str, Any] = {
        name: each for name, each in model.named_modules() if isinstance(each, FSDPModule)
    }
    if not wrapped:
        raise ValueError("no module of the model is an FSDP module; call fully_shard before")
    parameters = {name: _own(module) for name, module in wrapped.items()}
    if gradient_codec is not None and gradient_codec.feedback:
        for each in itertools.chain(*parameters.values()):
            if sum(placement.is_shard() for placement in each.placements) != 1:
                raise ValueError(
                    f"error feedback needs parameters that FSDP alone shards, and one has the "
                    f"placements {each.placements}; give the codec feedback=False"
                )
    settings = f"gradients={gradient_codec}, weights={weight_codec}"
    meshes = dict.fromkeys(each.device_mesh for each in itertools.chain(*parameters.values()))
    for mesh in meshes:
        codecs.refuse_device(mesh.device_type, "fsdp.compress")
    differences = []
    for group in itertools.chain(*(mesh.get_all_groups() for mesh in meshes)):
        try:
            reduced.compare_arguments(group, [settings], "fsdp.compress")
        except RuntimeError as error:  # the ranks of the other groups compare, too
            differences.append(error)
    if differences:
        raise differences[0]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    compressed = Compressed()
    for index, (name, module) in enumerate(wrapped.items()):
        if gradient_codec is not None:
            reduce_scatter = EncodedReduceScatter(gradient_codec, parameters[name], index)
            compressed.gradients[name] = reduce_scatter
            module.set_custom_reduce_scatter(reduce_scatter)
            shown = [names[id(each)] for each in parameters[name]]
            own = {each.removeprefix(f"{name}."): each for each in shown}
            optimizer_check.check_optimizers_of(module, own, [gradient_codec] * len(own))
        if weight_codec is not None:
            all_gather = EncodedAllGather(weight_codec)
            compressed.weights[name] = all_gather
            module.set_custom_all_gather(all_gather)
    return compressed
