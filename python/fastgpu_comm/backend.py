"""The backend `fastgpu` of torch.distributed, and the functions that torch has no place for."""

from __future__ import annotations

import contextlib
import copy
import importlib
import operator
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as TorchBackend

from fastgpu_comm import arguments, names

if TYPE_CHECKING:
    from fastgpu_comm._native import Backend, Options

MAX_SIZE = 2**63 - 1  # of a tensor's dimension: int64


def create(group: Any, options: Options | None) -> Backend:
    """Creates the backend of one process group; torch calls it for `backend="fastgpu"`.

    Args:
        group: torch's `_DistributedBackendOptions`: store, rank, size, time-out, name.
        options: The user's `pg_options`. They are copied. In a group with several backends torch
            passes them to each, so those of another backend are ignored.

    Raises:
        InvalidArgumentError: An option or a FASTGPU_ variable is unknown or has a bad value.
        OutOfResourcesError: A rank has no file descriptors, memory or threads left.
        RendezvousError: Some ranks did not arrive; the message names them.
        TypeError: `options` are not a backend's options.
    """
    from fastgpu_comm import native

    # DistributedDataParallel then takes the memory of its buckets from the backend: symmetric
    # memory, from which the ranks of a host reduce in place. torch's own default is "1".
    os.environ.setdefault("DDP_DISABLE_COMM_MEM", "0")
    if isinstance(options, native.Options):
        options = copy.copy(options)
    elif options is None or isinstance(options, TorchBackend.Options):
        options = native.Options()
    else:
        raise TypeError(
            "pg_options of the backend fastgpu must be fastgpu_comm.Options, such as "
            f"fastgpu_comm.Options(algorithm='ring'), not {options!r}"
        )
    if not options.timeout_is_set:
        options._timeout = group.timeout
    options.group_name = group.group_id
    options.global_ranks_in_group = group.global_ranks_in_group
    # torch makes the default group first. Its store is served by rank 0, unless torchrun serves it.
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    options.store_ends = not dist.is_initialized() and not by_agent
    return native.Backend(group.store, group.group_rank, group.group_size, options)


def backend_of(group: dist.ProcessGroup | None = None, device_type: str = "cpu") -> Backend:
    """Returns the `fastgpu` backend of a process group (by default, of the default group).

    Raises:
        TypeError: `group` is no process group.
        ValueError: There is no process group, or it has another backend.
    """
    from fastgpu_comm import native

    if group is None:
        group = dist.group.WORLD
    if group is None:
        raise ValueError("call torch.distributed.init_process_group(backend='fastgpu') first")
    if not isinstance(group, dist.ProcessGroup):
        if group == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("this rank is not a member of the group: call it on the members only")
        raise TypeError(f"group must be a process group of torch.distributed, not {group!r}")
    try:
        backend: Any = group._get_backend(torch.device(device_type))
    except RuntimeError:
        raise ValueError(
            f"the process group has no backend for {device_type.upper()} tensors; make one with "
            "torch.distributed.new_group(backend='fastgpu')"
        ) from None
    backend = getattr(backend, "wrapped_pg", backend)  # TORCH_DISTRIBUTED_DEBUG=DETAIL wraps it
    if not isinstance(backend, native.Backend):
        raise ValueError(
            f"the process group's backend is {backend.name()}, not fastgpu; make one with "
            "torch.distributed.new_group(backend='fastgpu')"
        )
    return backend


def why_not_available(name: str) -> str | None:
    """Returns why torch cannot create a process group with the backend `name`, or None."""
    try:
        if name and name != "undefined" and dist.is_backend_available(name):
            return _why_not_loaded() if name == "fastgpu" else None
    except ValueError as error:  # `name` is a malformed list of backends
        return str(error)
    listed = [known for known in dist.Backend.backend_list if known != "undefined"]
    available = [known for known in listed if dist.is_backend_available(known)]
    hint = names.suggestion(name, available)
    return f"torch has no backend {name!r} here; it has {', '.join(available)}.{hint}"


def _why_not_loaded() -> str | None:
    try:
        importlib.import_module("fastgpu_comm.native")
    except ImportError as error:
        return str(error)
    return None


def stats(group: dist.ProcessGroup | None = None) -> dict[str, float]:
    """Returns this rank's counters of a group since the group was created.

    Args:
        group: A process group of the backend `fastgpu`; by default the default group.

    Returns:
        `operations`: the collectives called; `bytes_sent`, `bytes_received`: the payload of all
        operations; `busy_seconds`: the time during which at least one operation was pending.

    Raises:
        TypeError: `group` is no process group.
        ValueError: There is no process group, or it has another backend.
    """
    return backend_of(group).stats()


def monitored_barrier(
    group: dist.ProcessGroup | None = None,
    timeout: timedelta | None = None,
    wait_all_ranks: bool = True,
) -> None:
    """Waits for every rank, and names the ranks that do not arrive.

    The counterpart of torch.distributed.monitored_barrier, which accepts gloo only. It uses the
    store and nothing else.

    Args:
        group: A process group of the backend `fastgpu`; by default the default group.
        timeout: How long to wait; by default the group's time-out. With zero, rank 0 only looks
            who is there.
        wait_all_ranks: As in torch, for programs that pass it. Rank 0 waits for all ranks and names
            all missing ones in either case; False only changes the words of the message.

    Raises:
        CollectiveTimeoutError: Some ranks did not arrive. Every rank that arrived raises it, and
            the message names all missing ranks. The group stays usable.
        TypeError: `group` is no process group, `timeout` no timedelta, or `wait_all_ranks` no bool.
        ValueError: There is no process group, or it has another backend.
    """
    if timeout is None:
        timeout = timedelta(milliseconds=-1)  # c10d's "unset"
    elif not isinstance(timeout, timedelta):
        raise TypeError(
            f"timeout must be a datetime.timedelta, such as timedelta(seconds=30), not {timeout!r}"
        )
    if not isinstance(wait_all_ranks, bool):
        raise arguments.wrong_type("wait_all_ranks", wait_all_ranks, "True or False")
    backend_of(group).monitored_barrier(timeout, wait_all_ranks)


def empty(
    *size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Returns an uninitialised tensor in symmetric memory, of the CPU or of a GPU.

    The ranks of this host can read and write symmetric memory directly, so collectives on the
    tensor copy less. The memory is freed with the tensor. A forked process shares the memory with
    its parent, for reading and writing.

    When a collective on the tensor fails, its memory becomes private to this process and stays so.
    Later collectives on the tensor still work but copy. Pending operations of other groups on the
    same tensor may fail as well. Memory of a GPU is only read by peers, and stays as it is.

    Args:
        size: The shape, as torch.empty takes it: integers, or one sequence of integers.
        dtype: The element type.
        device: "cpu", or a GPU such as "cuda:0"; "cuda" is the current one.

    Raises:
        InvalidArgumentError: There is no symmetric memory on the device.
        MemoryError: No machine has so much memory.
        OutOfResourcesError: This process ran out of memory, descriptors or permitted file sizes.
        TypeError: A size is no integer, or `dtype` no torch.dtype.
        ValueError: A size is negative.
    """
    from fastgpu_comm import native

    sizes = _sizes_of(size)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, such as torch.float32, not {dtype!r}")
    if any(each > MAX_SIZE for each in sizes):
        raise MemoryError(f"no memory can hold a tensor of sizes {sizes}")
    return native.empty(sizes, dtype, torch.device(device))


def mem_pool() -> Any:
    """Returns a torch.cuda.MemPool in symmetric memory: the ranks of this host read it in place.

    Tensors that are made inside `torch.cuda.use_mem_pool(pool)` are allocated there. The pool keeps
    the memory until the process ends.

    Raises:
        RuntimeError: This build of torch has no CUDA.
    """
    from fastgpu_comm import native

    if torch.version.cuda is None:
        raise RuntimeError("mem_pool needs a CUDA build of torch, and this one is for CPUs")
    allocator = torch.cuda.memory.CUDAPluggableAllocator(
        native.path, "fastgpu_device_allocate", "fastgpu_device_free"
    )
    _allocators.append(allocator)  # pools do not keep their allocator
    return torch.cuda.MemPool(allocator.allocator())


_allocators: list[Any] = []


def _sizes_of(size: tuple[Any, ...]) -> list[int]:
    """Returns the shape that the arguments of `empty` denote."""
    for shape in (size, *size) if len(size) == 1 else (size,):
        with contextlib.suppress(TypeError):  # try the next
            return [operator.index(each) for each in shape]
    raise TypeError(
        f"the sizes must be integers, such as empty(2, 3) or empty((2, 3)), not {size!r}"
    )
