"""Collects what a bug report needs: versions, backend, processor, network, limits and settings.

Nothing secret: the report has no host names and no paths, and of the environment only the variables
that it lists.
"""

from __future__ import annotations

import mmap
import os
import platform
import resource
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastgpu_comm
from fastgpu_comm import names
from fastgpu_comm.bench import machine
from fastgpu_comm.bench.sizes import format_size

Section = dict[str, Any]
PREFIX = "FASTGPU_"
OTHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "TORCH_DISTRIBUTED_DEBUG",
    "CUDA_VISIBLE_DEVICES",
)
LIMITS = {
    "open files": (resource.RLIMIT_NOFILE, 1),
    "processes": (resource.RLIMIT_NPROC, 1),
    "locked memory": (resource.RLIMIT_MEMLOCK, 1024),
    "file size": (resource.RLIMIT_FSIZE, 1024),
    "address space": (resource.RLIMIT_AS, 1024),
}


def collect() -> dict[str, Section]:
    """Returns the report: sections of named values. A part that fails says why."""
    return {
        "versions": _versions(),
        "backend": _backend(),
        "processor": _processor(),
        "interfaces": _interfaces(""),
        "transports": _transports(),
        "limits": _limits(),
        "settings": _settings(),
        "environment": {name: _variable(name) for name in OTHER_VARIABLES if name in os.environ},
    }


def _variable(name: str) -> str:
    """Returns a variable's value in characters that can be printed: its bytes may be any."""
    return os.fsencode(os.environ[name]).decode(errors="backslashreplace")


def _attempt(read: Callable[[], Any]) -> Any:
    """Returns what `read` returns, or its error as text."""
    try:
        return read()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return f"unknown: {error}"


def _versions() -> Section:
    import torch

    found = {
        "fastgpu_comm": fastgpu_comm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
    }

    def built() -> tuple[str, str, str]:
        from fastgpu_comm import native
        from fastgpu_comm._built_with import HAS_DEVICE_CODE, TORCH_VERSION

        return TORCH_VERSION, native.compiler(), "yes" if HAS_DEVICE_CODE else "no"

    built_with = _attempt(built)
    if isinstance(built_with, tuple):
        found["built for torch"], found["compiler"], found["code for GPUs"] = built_with
    return found


def _backend() -> Section:
    import torch.distributed as dist

    from fastgpu_comm.backend import why_not_available

    listed = [name for name in dist.Backend.backend_list if name != "undefined"]
    reasons = {name: why_not_available(name) for name in listed}
    found: Section = {name: "available" for name, reason in reasons.items() if reason is None}
    found["fastgpu"] = reasons.get("fastgpu", "torch does not know it") or "available"
    return found


def _processor() -> Section:
    from_kernel = {
        "model": machine.cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} usable by this process",
        "memory": f"{machine.memory_bytes() / 2**30:.1f} GiB",
    }

    def instructions() -> str:
        from fastgpu_comm import native

        usable = ", ".join(native.usable_instruction_sets())
        return f"{native.instruction_set()} (this processor has {usable})"

    return {**from_kernel, "instruction set": _attempt(instructions)}


def _interfaces(pattern: str) -> Section:
    def addresses() -> Section:
        from fastgpu_comm import native

        found: Section = {}
        for name, address in native.interfaces(pattern):
            found[name] = f"{found[name]}, {address}" if name in found else address
        return found

    found = _attempt(addresses)
    return found if isinstance(found, dict) else {"error": found}


def _transports() -> Section:
    wanted = os.environ.get(PREFIX + "TRANSPORT", "auto")
    forced = f"off: {PREFIX}TRANSPORT is {wanted}"
    memory = forced if wanted == "tcp" else _why_no_shared_memory()
    network = forced
    if wanted != "shm":
        chosen = _interfaces(os.environ.get(PREFIX + "INTERFACE", ""))
        network = f"off: {chosen['error']}" if "error" in chosen else "on: " + ", ".join(chosen)
    return {
        "shm": memory,
        "single copy inside a host": memory if memory.startswith("off") else _single_copy(),
        "tcp": network,
    }


def _why_no_shared_memory() -> str:
    """Tries what ranks of a host need to share memory; returns "on", or the reason why not."""
    try:
        descriptor = os.memfd_create("fastgpu-comm-env")
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            mmap.mmap(descriptor, mmap.PAGESIZE).close()
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"off: shared memory (memfd) cannot be made: {error.strerror}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"\0fastgpu-comm-env-{os.getpid()}")
            listener.listen()
    except OSError as error:
        return f"off: unix sockets cannot be used: {error.strerror}"
    return "on"


def _single_copy() -> str:
    wanted = os.environ.get(PREFIX + "SINGLE_COPY", "auto")
    if wanted == "never":
        return f"off: {PREFIX}SINGLE_COPY is never"
    scope = _attempt(lambda: Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip())
    if scope in ("1", "2", "3") and os.geteuid() != 0:
        return f"off: kernel.yama.ptrace_scope is {scope}: ranks may not read each other's memory"

    def slow() -> bool:
        from fastgpu_comm import native

        return native.single_copy_is_slow()

    if wanted == "auto" and _attempt(slow) is True:
        return f"off: it is slow on this processor ({PREFIX}SINGLE_COPY=always forces it)"
    return "on, where the kernel allows it"


def _limits() -> Section:
    def text(value: int, unit: int) -> str:
        if value == resource.RLIM_INFINITY:
            return "unlimited"
        return format_size(value) + "B" if unit > 1 else str(value)

    found: Section = {}
    for name, (limit, unit) in LIMITS.items():
        soft, hard = resource.getrlimit(limit)
        found[name] = f"{text(soft, unit)} (at most {text(hard, unit)})"

    def shared_memory() -> str:
        usage = shutil.disk_usage("/dev/shm")
        total, free = usage.total / 2**20, usage.free / 2**20
        return f"{total:.0f} MiB, {free:.0f} MiB free (fastgpu uses none of it)"

    found["/dev/shm"] = _attempt(shared_memory)
    return found


def _settings() -> Section:
    """Returns the value, the source and the error, if any, of each FASTGPU_ variable.

    The value of an unknown variable is not reported.
    """

    def settings() -> Section:
        from fastgpu_comm import native
        from fastgpu_comm.errors import InvalidArgumentError

        defaults = native.variables()
        found: Section = {}
        for name, default in defaults.items():
            found[name] = f"{default or 'not set'} (default)"
            if name in os.environ:
                found[name] = f"{_variable(name)} (from the environment)"
                try:
                    native.check_variable(os.fsencode(name), os.fsencode(os.environ[name]))
                except InvalidArgumentError as error:
                    found[name] += f": {error}"
        for name in sorted(os.environ):
            if name.startswith(PREFIX) and name not in defaults:
                readable = os.fsencode(name).decode(errors="backslashreplace")
                found[readable] = f"unknown: unset it.{names.suggestion(name, defaults)}"
        return found

    found = _attempt(settings)
    return found if isinstance(found, dict) else {"error": found}
