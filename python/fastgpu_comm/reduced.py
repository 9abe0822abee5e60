"""The parameters whose gradients DistributedDataParallel reduces: compared and named."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import parallel

from fastgpu_comm.codecs import Codec


def named(
    model: parallel.DistributedDataParallel,
) -> tuple[list[str], list[torch.nn.Parameter], list[bool]]:
    """Returns the names of a model's parameters, these, and whether their gradients are sparse.

    The lists are by the Reducer's index.
    """
    parameters, sparse = model._build_params_for_reducer()
    names = model._build_debug_param_to_name_mapping(parameters)
    return [names[index].removeprefix(".") for index in range(len(parameters))], parameters, sparse


def describe(
    names: Sequence[str], parameters: Sequence[torch.Tensor], codecs: Sequence[Codec | None]
) -> list[str]:
    """Describes each parameter by the properties that all ranks must agree on."""
    described = []
    for name, parameter, codec in zip(names, parameters, codecs, strict=True):
        dtype = str(parameter.dtype).removeprefix("torch.")
        described.append(
            f"{name}: {dtype}, shape {list(parameter.shape)}, strides "
            f"{list(parameter.stride())}, codec {codec.name if codec else 'none'}"
        )
    return described


def compare(group: dist.ProcessGroup, parameters: list[str], settings: str) -> None:
    """Checks that parameters and settings are the same on all ranks. A collective.

    Args:
        group: The process group.
        parameters: A description of each parameter that requires a gradient.
        settings: A description of what else must be the same.

    Raises:
        RuntimeError: They differ; on every rank it names the first parameter that does.
    """
    mine = [settings, *parameters]
    world = dist.get_world_size(group)
    digests: list[Any] = [None] * world
    dist.all_gather_object(digests, hashlib.sha256(repr(mine).encode()).digest(), group=group)
    if len(set(digests)) == 1:
        return
    models: list[Any] = [None] * world
    dist.all_gather_object(models, mine, group=group)
    other = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
    pairs = itertools.zip_longest(models[0], models[other], fillvalue="no parameter")
    here, there = next((a, b) for a, b in pairs if a != b)
    raise RuntimeError(
        f"DDP expects same model across all ranks, but Rank 0 has {len(models[0]) - 1} params, "
        f"while rank {other} has {len(models[other]) - 1}. The first that appears not to match: "
        f"[{here}] on rank 0, [{there}] on rank {other}."
    )


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


def add_waits(group: dist.ProcessGroup, buckets: Sequence[dict[str, Any]]) -> None:
    """Adds to each bucket how long the ranks waited for it, and the last rank. A collective."""
    if not buckets:
        return
    mine = [b["done_s"] - b["launched_s"] if b["done_s"] else math.inf for b in buckets]
    waits = torch.empty(dist.get_world_size(group), len(buckets), dtype=torch.float64)
    mine_s = torch.tensor(mine, dtype=torch.float64)
    dist.all_gather_into_tensor(waits.view(-1), mine_s, group=group)
    for bucket, by_rank in zip(buckets, waits.T.tolist(), strict=True):
        bucket["waits_s"] = by_rank
        bucket["last_rank"] = min(range(len(by_rank)), key=by_rank.__getitem__)


def check_residuals(
    residuals: dict[str, torch.Tensor], names: Sequence[str], parameters: Sequence[torch.Tensor]
) -> None:
    """Raises a ValueError if a residual is of none of the named parameters, or of another shape."""
    shapes = {name: p.shape for name, p in zip(names, parameters, strict=False)}
    for name, residual in residuals.items():
        if name not in shapes:
            raise ValueError(f"the state has a residual of {name!r}, which has none here")
        if residual.shape != shapes[name]:
            raise ValueError(
                f"the residual of {name!r} is of shape {tuple(residual.shape)}, and the "
                f"parameter of shape {tuple(shapes[name])}"
            )


def in_shape(flat: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Views a flat tensor as torch's buckets view gradients: with the parameter's strides."""
    if torch.empty_like(parameter).stride() == parameter.stride():
        return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())
    return flat.view(parameter.shape)


def spread(flat: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
    """Copies a flat tensor into the gradients that it was made of."""
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
