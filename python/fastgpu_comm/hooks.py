"""Communication hooks that compress the gradients of torch's own DistributedDataParallel.

They run over any process group for CPU tensors, such as gloo:

    model = torch.nn.parallel.DistributedDataParallel(module)
    model.register_comm_hook(hooks.CodecState(model, "int8"), hooks.codec_hook)
    model.register_comm_hook(hooks.PowerSgdState(model, rank=2), hooks.power_sgd_hook)  # or this

Over the backend `fastgpu`, `fastgpu_comm.DistributedDataParallel(module, codec="int8")` does the
same as the first faster: it encodes on other threads and chunk by chunk.
"""

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn import parallel

from fastgpu_comm import arguments, codecs, optimizer_check, reduced, saved_states
from fastgpu_comm.encoded import EncodedSum
from fastgpu_comm.power_sgd import PowerSgdState as PowerSgdState
from fastgpu_comm.power_sgd import power_sgd_hook as power_sgd_hook


class CodecState:
    """The codec of each parameter of a model, and the residuals.

    Residuals belong to parameters, and stay with them when torch rebuilds its buckets.
    """

    def __init__(
        self,
        model: parallel.DistributedDataParallel,
        codec: codecs.Codec | str | codecs.Policy,
    ) -> None:
        """Chooses the codecs.

        Args:
            model: The model that the hook will be registered with.
            codec: As for `fastgpu_comm.DistributedDataParallel`, but for "auto". A policy must give
                all parameters the same codec or none. Must be the same on all ranks, which the
                first backward pass compares.

        Raises:
            TypeError: The model is not wrapped, or `codec` is none of the above.
            ValueError: The codec is unknown or has `residual_bits`, or the parameters have
                different ones or are not on the CPU.
        """
        self.names, parameters, _ = reduced.named(model)
        chosen = [
            codecs.choose(codec, name, parameter)
            for name, parameter in zip(self.names, parameters, strict=True)
        ]
        used = {each for each in chosen if each is not None}
        if len(used) > 1:
            raise ValueError(
                "codec_hook takes one codec for all parameters that it encodes, not "
                + ", ".join(sorted(each.name for each in used))
            )
        self.codec = used.pop() if used else None
        codecs.refuse_options(self.codec, "codec_hook")
        codecs.refuse_device(model.device_type, "codec_hook")
        self.encoded = [each is not None for each in chosen]
        self.model = weakref.ref(model)  # which holds the hook, and so this object
        self.group = model.process_group  # of the last pass
        self._shapes = {
            name: torch.Size([parameter.numel()])
            for name, parameter, each in zip(self.names, parameters, chosen, strict=True)
            if each is not None and each.feedback
        }
        self._uncompared: list[str] | None = reduced.describe(self.names, parameters, chosen)
        shown = {f"module.{name}": name for name in self.names}
        optimizer_check.check_optimizers_of(model, shown, chosen)
        # By parameter: the rounding errors of this rank's share of the gradients and of the sums.
        self.residuals: dict[str, torch.Tensor] = {}
        self.sums = 0  # how many were encoded; the number of a sum decides its random bits
        self.bytes_sent = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns this rank's state, for a checkpoint. Each rank saves its own.

        Returns:
            `residuals`: copies of the residuals by name of the parameter, flat; `sums`: how many
            sums were encoded; `rank` and `world_size`: of the process group.
        """
        residuals = {name: residual.clone() for name, residual in self.residuals.items()}
        return {"residuals": residuals, "sums": self.sums} | saved_states.origin(self.group)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned. The number of ranks may be another.

        Raises:
            TypeError: The state or its `residuals` are no dict, or a residual is no tensor.
            ValueError: The state lacks `residuals`, one of them fits no parameter, or another rank
                saved it, in a group of the same size; nothing has changed then.
        """
        saved_states.check(state, ["residuals"], "CodecState.state_dict()", self.group)
        saved_states.check_tensors("residual", state["residuals"], self._shapes)
        sums = saved_states.counter(state, "sums")
        residuals = saved_states.copied(state["residuals"])
        self.sums, self.residuals = sums, residuals

    def _compare(self) -> None:
        """Checks, in the first pass, that the ranks have the same codecs. A collective."""
        if self._uncompared is not None:
            reduced.compare_arguments(self.group, self._uncompared, "hooks.CodecState")
            self._uncompared = None


def codec_hook(state: CodecState, bucket: GradBucket) -> Future[torch.Tensor]:
    """Reduces a bucket to the mean over the ranks. Register it with torch's class.

    Parameters without a codec are all-reduced. The others are encoded, and travel twice: to the
    rank that adds up a share of them, and as the rounded sum to every rank. The hook waits for the
    first exchange, so that all ranks start their collectives in one order.

    Raises:
        RuntimeError: On all ranks, in the first backward pass: their codecs differ.
        TypeError: The state is no CodecState.
    """
    from fastgpu_comm import native

    arguments.check_state_of_hook("codec_hook", state, CodecState, 'model, "int8"')
    model = state.model()
    assert model is not None
    state.group = model.process_group
    state._compare()
    buffer = bucket.buffer()
    world = state.group.size()
    if buffer.is_sparse or state.codec is None:
        work: Any = dist.all_reduce(buffer.div_(world), group=state.group, async_op=True)
        return _first_of(work.get_future())
    # Not bucket.parameters() nor bucket.index(), which may be wrong: csrc/torch/reducer.
    indices = native.parameters_of(model.reducer, bucket)
    gradients = bucket.gradients()
    exact = [g for i, g in zip(indices, gradients, strict=True) if not state.encoded[i]]
    named = [
        (state.names[i], g) for i, g in zip(indices, gradients, strict=True) if state.encoded[i]
    ]
    if world == 1:
        return _deliver_residuals(state, named, buffer)
    futures = []
    if exact:
        futures.append(_reduce_exactly(state, exact, world))
    if named:
        futures.append(_reduce_encoded(state, named, world))

    def finish(collected: Future[list[Future[None]]]) -> torch.Tensor:
        for future in collected.value():
            future.wait()  # done already; raises its error
        return buffer

    return torch.futures.collect_all(futures).then(finish)


def _reduce_exactly(state: CodecState, gradients: list[torch.Tensor], world: int) -> Future[None]:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).div_(world)
    state.bytes_sent += 2 * (world - 1) * flat.nbytes // world
    work: Any = dist.all_reduce(flat, group=state.group, async_op=True)
    done: Future[None] = work.get_future().then(lambda future: _spread(flat, gradients, future))
    return done


def _reduce_encoded(
    state: CodecState, named: list[tuple[str, torch.Tensor]], world: int
) -> Future[None]:
    codec = state.codec
    assert codec is not None
    gradients = [gradient for _, gradient in named]
    count = sum(gradient.numel() for gradient in gradients)
    flat = torch.zeros(-(-count // world) * world, dtype=torch.float32)
    torch.cat([gradient.reshape(-1) for gradient in gradients], out=flat[:count])
    flat.div_(world)
    residual = _gather_residuals(state, named, flat.numel()) if codec.feedback else None
    total = EncodedSum(flat, codec, state.group, residual, state.sums)
    state.sums += 1
    state.bytes_sent += total.bytes_sent

    def finish(future: Future[Any]) -> None:
        future.value()
        total.finish()
        _spread(flat, gradients, future)
        if residual is not None:
            _keep_residuals(state, named, residual)

    done: Future[None] = total.work.get_future().then(finish)
    return done


def _deliver_residuals(
    state: CodecState, named: list[tuple[str, torch.Tensor]], buffer: torch.Tensor
) -> Future[torch.Tensor]:
    """Adds the residuals that were loaded from a run of more ranks: nothing is encoded here."""
    for name, gradient in named:
        residual = state.residuals.pop(name, None)
        if residual is not None:
            gradient.add_(residual.view_as(gradient))
    done: Future[torch.Tensor] = Future()
    done.set_result(buffer)
    return done


def _gather_residuals(
    state: CodecState, named: list[tuple[str, torch.Tensor]], length: int
) -> torch.Tensor:
    residual = torch.zeros(length, dtype=torch.float32)
    offset = 0
    for name, gradient in named:
        if name in state.residuals:
            residual[offset : offset + gradient.numel()] = state.residuals[name]
        offset += gradient.numel()
    return residual


def _keep_residuals(
    state: CodecState, named: list[tuple[str, torch.Tensor]], residual: torch.Tensor
) -> None:
    offset = 0
    for name, gradient in named:
        state.residuals[name] = residual[offset : offset + gradient.numel()]
        offset += gradient.numel()


def _spread(flat: torch.Tensor, gradients: list[torch.Tensor], future: Future[Any]) -> None:
    future.value()  # raises the error of a failed collective
    reduced.spread(flat, gradients)


def _first_of(future: Future[list[torch.Tensor]]) -> Future[torch.Tensor]:
    first: Future[torch.Tensor] = future.then(lambda done: done.value()[0])
    return first
