"""The parameters whose gradients DistributedDataParallel reduces: compared and named."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn import parallel
from torch.nn.parallel.distributed import _find_tensors

from fastgpu_comm import arguments, saved_states
from fastgpu_comm.backend import backend_of
from fastgpu_comm.codecs import Codec
from fastgpu_comm.encoded import ALL_GATHER

if TYPE_CHECKING:
    from fastgpu_comm.native import GradientReducer


def named(
    model: parallel.DistributedDataParallel,
) -> tuple[list[str], list[torch.nn.Parameter], list[bool]]:
    """Returns the names of a model's parameters, these, and whether their gradients are sparse.

    The lists are by the Reducer's index.

    Raises:
        TypeError: The model is not wrapped.
    """
    if not isinstance(model, parallel.DistributedDataParallel):
        wanted = "the wrapped model: torch.nn.parallel.DistributedDataParallel(module)"
        raise arguments.wrong_type("model", model, wanted)
    parameters, sparse = model._build_params_for_reducer()
    return names_of(model, parameters), parameters, sparse


def names_of(
    model: parallel.DistributedDataParallel, parameters: list[torch.nn.Parameter]
) -> list[str]:
    """Returns the names of the parameters that a model's Reducer has, in their order."""
    names = model._build_debug_param_to_name_mapping(parameters)
    return [names[index].removeprefix(".") for index in range(len(parameters))]


def describe(
    names: Sequence[str], parameters: Sequence[torch.Tensor], codecs: Sequence[Codec | None]
) -> list[str]:
    """Describes each parameter by the properties that all ranks must agree on."""
    described = []
    for name, parameter, codec in zip(names, parameters, codecs, strict=True):
        dtype = str(parameter.dtype).removeprefix("torch.")
        described.append(
            f"{name}: {dtype}, shape {list(parameter.shape)}, strides "
            f"{list(parameter.stride())}, {codec or 'no codec'}"
        )
    return described


def compare(
    model: parallel.DistributedDataParallel,
    parameters: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Checks that settings and parameters are the same on all ranks. A collective.

    Args:
        model: The model. Parameters that require no gradient may differ between ranks.
        parameters: A description of each parameter that requires a gradient.
        settings: The values of the arguments that must be the same on all ranks, by name.

    Raises:
        RuntimeError: They differ; on every rank it names the first setting or parameter that does.
    """
    group, count = model.process_group, len(settings)
    described = [f"{name}={value!r}" for name, value in settings.items()]
    found = _first_difference(group, [*described, *parameters])
    if found is None:
        return
    other, models, (here, there) = found
    if here in models[0][:count]:
        raise _different_arguments("DistributedDataParallel", other, here, there)
    frozen: list[Any] = [None] * len(models)
    mine = [name for name, each in model.module.named_parameters() if not each.requires_grad]
    dist.all_gather_object(frozen, mine, group=group)
    here, there = _or_frozen(here, there, frozen[0]), _or_frozen(there, here, frozen[other])
    raise RuntimeError(
        f"DDP expects same model across all ranks, but Rank 0 has {len(models[0]) - count} params, "
        f"while rank {other} has {len(models[other]) - count}. The first that appears not to "
        f"match: [{here}] on rank 0, [{there}] on rank {other}."
    )


def _or_frozen(described: str, counterpart: str, frozen: Sequence[str]) -> str:
    """Returns the description of a parameter on a rank. It may be missing there because frozen.

    Args:
        described: The rank's description of the parameter. A rank without it describes another.
        counterpart: The description on the rank that is compared.
        frozen: The names of the rank's parameters that require no gradient.
    """
    name = counterpart.partition(": ")[0]
    return f"{name}: requires no gradient" if name in frozen else described


def compare_arguments(group: dist.ProcessGroup, mine: Sequence[str], whose: str) -> None:
    """Checks that all ranks have given a class or function the same. A collective.

    Args:
        group: The process group.
        mine: A description of what must be the same: the arguments, then each parameter.
        whose: The name of the class or function.

    Raises:
        RuntimeError: They differ; on every rank it names the first difference.
    """
    found = _first_difference(group, mine)
    if found is not None:
        other, _, (here, there) = found
        raise _different_arguments(whose, other, here, there)


def _different_arguments(whose: str, other: int, here: str, there: str) -> RuntimeError:
    return RuntimeError(
        f"{whose} needs the same arguments and parameters on all ranks: rank 0 of the group has "
        f"{here}, and rank {other} has {there}"
    )


def _first_difference(
    group: dist.ProcessGroup, mine: Sequence[str]
) -> tuple[int, list[list[str]], tuple[str, str]] | None:
    """Returns the first rank that differs from rank 0, the texts of all ranks, and the pair."""
    world = dist.get_world_size(group)
    digests: list[Any] = [None] * world
    dist.all_gather_object(digests, hashlib.sha256(repr(mine).encode()).digest(), group=group)
    if len(set(digests)) == 1:
        return None
    texts: list[Any] = [None] * world
    dist.all_gather_object(texts, list(mine), group=group)
    other = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
    pairs = itertools.zip_longest(texts[0], texts[other], fillvalue="no parameter")
    return other, texts, next((a, b) for a, b in pairs if a != b)


@contextlib.contextmanager
def named_in_errors() -> Iterator[None]:
    """A Reducer made inside names parameters in its errors: it reads the debug level only then."""
    level = dist.get_debug_level()
    if level == dist.DebugLevel.OFF:
        dist.set_debug_level(dist.DebugLevel.INFO)
    try:
        yield
    finally:
        dist.set_debug_level(level)


@contextlib.contextmanager
def names_of_unused(logger: Any) -> Iterator[None]:
    """Puts the names of parameters without a gradient at the end of a Reducer's error.

    By default torch lists their indices, and names the environment variable that makes it list
    names. Programs look for that text, so it stays.

    Ranks that used the parameters wait in their backward pass. When the program of the raising rank
    ends or destroys the group, the waiting ranks receive the attribute `for_other_ranks` of the
    error. The text begins with the names, because long texts are cut. The error does not abort the
    group: if all ranks raise it, no rank waits, and the program may go on.

    Args:
        logger: The logger of DistributedDataParallel, which gets the new text, too.
    """
    try:
        yield
    except RuntimeError as error:
        names = re.search(r"\nParameters which did not receive grad for rank .*", str(error))
        if names is None:
            raise
        if dist.get_debug_level() == dist.DebugLevel.OFF:
            text = (
                f"{str(error).replace(names.group(), '')}{names.group()}\nTo log more, set the "
                "environment variable TORCH_DISTRIBUTED_DEBUG to either INFO or DETAIL."
            )
            logger.set_error_and_log(text)
            error = RuntimeError(text)
        error.for_other_ranks = f"{names.group().strip()}. {error}"  # type: ignore[attr-defined]
        raise error from None


def add_times_of_ranks(group: dist.ProcessGroup, buckets: Sequence[dict[str, Any]]) -> None:
    """Adds to each bucket the times that every rank measured, and the last rank. A collective."""
    if not buckets:
        return
    waits_s = [b["done_s"] - b["launched_s"] if b["done_s"] else math.inf for b in buckets]
    mine = [
        [b["launched_s"], wait_s, b["codec_s"]] for b, wait_s in zip(buckets, waits_s, strict=True)
    ]
    times = torch.empty(dist.get_world_size(group), len(buckets), 3, dtype=torch.float64)
    mine_s = torch.tensor(mine, dtype=torch.float64)
    ALL_GATHER(times.view(-1), mine_s.view(-1), group=group)
    for bucket, by_rank in zip(buckets, times.permute(1, 2, 0).tolist(), strict=True):
        bucket["launches_s"], bucket["waits_s"], bucket["codecs_s"] = by_rank
        bucket["last_rank"] = min(range(len(by_rank[1])), key=by_rank[1].__getitem__)


def in_shape(flat: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Views a flat tensor as torch's buckets view gradients: with the parameter's strides."""
    if torch.empty_like(parameter).stride() == parameter.stride():
        return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())
    return flat.view(parameter.shape)


def check_plan(names: Sequence[str], plan: Sequence[Sequence[str]]) -> list[list[int]]:
    """Returns a plan with the indices of the parameters.

    Args:
        names: The parameters of a Reducer.
        plan: The names of the parameters in each bucket.

    Raises:
        TypeError: The plan is no list of lists.
        ValueError: A parameter is unknown, missing or in two buckets, or a bucket is empty.
    """
    is_list = isinstance(plan, (list, tuple))
    if not is_list or not all(isinstance(bucket, (list, tuple)) for bucket in plan):
        wanted = "a list of lists of parameter names, as the method bucket_plan returns them"
        raise TypeError(f"bucket_plan is {plan!r}; it must be {wanted}")
    indices = {name: index for index, name in enumerate(names)}
    planned = collections.Counter(itertools.chain(*plan))
    for name in planned:
        if name not in indices:
            raise ValueError(f"bucket_plan has {name!r}, which is no parameter of this model")
    for name in names:
        if planned[name] != 1:
            raise ValueError(f"bucket_plan has {name!r} {planned[name]} times; it must be once")
    if not all(plan):
        raise ValueError("bucket_plan has an empty bucket; each must have a parameter")
    return [[indices[name] for name in bucket] for bucket in plan]


def set_plan(reducer: dist.Reducer, names: Sequence[str], plan: Sequence[Sequence[str]]) -> None:
    """Sets the buckets of a Reducer, as `check_plan` allows them."""
    from fastgpu_comm import native

    native.set_buckets(reducer, check_plan(names, plan))


def plan_of(reducer: dist.Reducer, names: Sequence[str]) -> list[list[str]]:
    """Returns the names of the parameters in each bucket of a Reducer."""
    from fastgpu_comm import native

    return [[names[index] for index in bucket] for bucket in native.buckets_of(reducer)]


def backend_for(group: dist.ProcessGroup, device_type: str) -> Any:
    """Returns the backend on which a GradientReducer reduces gradients of this kind of device.

    Raises:
        ValueError: The backend is not fastgpu, or does not serve the device.
    """
    from fastgpu_comm import native

    try:
        if device_type not in ("cpu", native.device_type()):
            raise ValueError(f"the parameters are on {device_type}, which it does not serve")
        return backend_of(group, device_type)
    except ValueError as error:
        raise ValueError(
            f"codec and weighted need a process group of fastgpu: {error}. For other groups "
            "there are the communication hooks of fastgpu_comm.hooks."
        ) from None


def residuals_of(
    gradients: GradientReducer | None, names: Sequence[str], parameters: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Returns copies of the residuals by name of the parameter, in its shape."""
    residuals = {}
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        flat = gradients.residual(index) if gradients is not None else None
        if flat is not None:
            view = in_shape(flat, parameter)
            residuals[name] = view.clone(memory_format=torch.contiguous_format)
    return residuals


def check_state(
    state: Mapping[str, Any],
    group: dist.ProcessGroup,
    names: Sequence[str],
    parameters: Sequence[torch.Tensor],
) -> None:
    """Refuses the state of a DistributedDataParallel that does not fit.

    Args:
        state: The state to load.
        group: The process group of the model.
        names: The parameters of the Reducer.
        parameters: These parameters; none if no gradient can have a residual.

    Raises:
        TypeError: The state or an entry is of another type.
        ValueError: The state lacks an entry or is another rank's, a residual or the bucket plan
            fits no parameter, or a number is out of range.
    """
    keys = ("residuals", "scale", "bucket_plan")
    saved_states.check(state, keys, "reducer_state_dict()", group)
    shapes = {name: each.shape for name, each in zip(names, parameters, strict=False)}
    saved_states.check_tensors("residual", state["residuals"], shapes)
    if not arguments.is_number(state["scale"]) or state["scale"] <= 0:
        raise ValueError(
            f"scale of the state is {state['scale']!r}; it must be a finite number above 0"
        )
    saved_states.counter(state, "step")
    if state["bucket_plan"] is not None:
        check_plan(names, state["bucket_plan"])


def set_residuals(
    gradients: GradientReducer,
    names: Sequence[str],
    parameters: Sequence[torch.Tensor],
    residuals: Mapping[str, torch.Tensor],
) -> None:
    """Sets the residuals that `residuals_of` returned, and all others to zero."""
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        if name in residuals:
            flat = torch.empty(parameter.numel(), dtype=torch.float32)
            in_shape(flat, parameter).copy_(residuals[name])
            gradients.set_residual(index, flat)
        elif gradients.residual(index) is not None:
            gradients.set_residual(index, torch.zeros(parameter.numel(), dtype=torch.float32))


def before_backward(output: Any, check: Callable[[torch.Tensor], None]) -> None:
    """Makes the backward pass of a model's output begin with a check, before any reduction.

    Args:
        output: The output: tensors, and what torch finds some in.
        check: Called with a gradient; it may raise.
    """
    for tensor in _find_tensors(output):
        if not tensor.is_leaf:  # a parameter would keep the hook for all later steps
            tensor.register_hook(check)


def spread(flat: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
    """Copies a flat tensor into the gradients that it was made of."""
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
