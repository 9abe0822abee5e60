"""The backend `fastgpu` of torch.distributed, and what torch has no door for."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from fastgpu_comm._native import Backend, Options

NAME = "fastgpu"


def create(group: Any, options: Options | None) -> Backend:
    """Makes the backend of one process group: what torch calls for `backend="fastgpu"`.

    Args:
        group: torch's `_DistributedBackendOptions`: store, rank, size, time-out, name.
        options: `pg_options` as the user gave it.

    Raises:
        InvalidArgumentError: For a bad option, and for a bad or unknown FASTGPU_ variable.
        RendezvousError: Naming the ranks that did not come.
    """
    from fastgpu_comm import native

    if options is None:
        options = native.Options()
    elif isinstance(options, native.Options):
        options = copy.copy(options)
    else:
        raise TypeError(
            f"pg_options of the backend {NAME} must be fastgpu_comm.Options, not {type(options)}"
        )
    if not options.timeout_is_set:
        options._timeout = group.timeout
    options.group_name = group.group_id
    options.global_ranks_in_group = group.global_ranks_in_group
    return native.Backend(group.store, group.group_rank, group.group_size, options)


def backend_of(group: dist.ProcessGroup | None = None) -> Backend:
    """Returns the `fastgpu` backend of a process group (by default the default one).

    Raises:
        ValueError: When the group has another backend.
    """
    from fastgpu_comm import native

    group = group or dist.group.WORLD
    if group is None:
        raise ValueError("call torch.distributed.init_process_group(backend='fastgpu') first")
    backend: Any = group._get_backend(torch.device("cpu"))
    backend = getattr(backend, "wrapped_pg", backend)  # TORCH_DISTRIBUTED_DEBUG=DETAIL
    if not isinstance(backend, native.Backend):
        raise ValueError(f"the process group's backend is {backend.name()}, not {NAME}")
    return backend


def why_not_available(name: str) -> str | None:
    """Returns why no process group can have the backend `name` here; None when one can."""
    try:
        if name and name != "undefined" and dist.is_backend_available(name):
            return None
    except ValueError as error:  # no way to write several backends
        return str(error)
    listed = [each for each in dist.Backend.backend_list if each != "undefined"]
    have = ", ".join(each for each in listed if dist.is_backend_available(each))
    return f"torch has no backend {name!r} here; it has {have}"


def stats(group: dist.ProcessGroup | None = None) -> dict[str, float]:
    """Counts what went through a group since it was made.

    Returns:
        `operations`, `bytes_sent`, `bytes_received`, and `busy_seconds`: the time in which at least
        one operation was pending.
    """
    return backend_of(group).stats()


def monitored_barrier(
    group: dist.ProcessGroup | None = None, timeout: timedelta | None = None
) -> None:
    """Waits for every rank, by the store alone, and names the ranks that do not come.

    torch.distributed.monitored_barrier takes only gloo; this is the same for `fastgpu`.

    Args:
        group: The process group; by default the default one.
        timeout: How long to wait; by default the group's time-out.

    Raises:
        CollectiveTimeoutError: On every rank that came, naming all that did not.
    """
    backend = cast(Any, backend_of(group))
    backend.monitored_barrier(timeout or timedelta(0), True)


def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns a CPU tensor in symmetric memory, which ranks of this host read where it lies.

    Collectives on it copy less. The memory is freed with the tensor. After a collective on it has
    failed it is this process's alone, and later collectives on it copy again; those of other groups
    that are under way on it may fail, too. A forked process shares it: what either writes both see.

    Args:
        size: Its shape, as torch.empty takes it: numbers, or one sequence of them.
        dtype: Its element type.

    Raises:
        MemoryError: When there is none left.
    """
    from fastgpu_comm import native

    shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    return native.empty(list(shape), dtype)
