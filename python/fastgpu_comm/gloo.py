"""Runs programs that ask torch.distributed for gloo on the backend fastgpu, without an edit.

torch makes every process group in one function, `_new_process_group_helper`. A `GlooReplacement`
wraps it: where the caller asks for gloo on CPU, it asks for fastgpu. `get_backend` still returns
what the program asked for, because programs compare it with "gloo"; `get_backend_config` returns
what the group uses.

Before such a group is made, its ranks vote through the store, so that either all of them use
fastgpu or all use gloo.

`import torch` may import this module at its end, so torch is imported in functions only.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist

VARIABLE = "FASTGPU_REPLACE_GLOO"


@dataclass(frozen=True)
class Ballot:
    """One rank's part in the vote."""

    why_not: str  # why this process cannot use fastgpu, or ""
    has_cuda: bool


@dataclass(frozen=True)
class Verdict:
    """The result of the vote, equal on all ranks of the group."""

    backend: str  # for example "cpu:fastgpu,cuda:nccl", or "" for what the program asked for
    why_not: str


class GlooReplacement:
    """Replaces gloo from its creation until `restore()`. It is also a context manager.

    Groups that are made meanwhile keep their backend after `restore()`.
    """

    def __init__(self) -> None:
        """Starts the replacement."""
        c10d = _c10d()
        self._active = True
        self._original = original = c10d._new_process_group_helper
        signature = inspect.signature(original)

        @functools.wraps(original)
        def make_group(*args: Any, **kwargs: Any) -> Any:
            request = signature.bind(*args, **kwargs)
            replaced = _replaced_backend(request.arguments) if self._active else ""
            if not replaced:
                return original(*args, **kwargs)
            asked = request.arguments["backend"]
            request.arguments["backend"] = c10d.Backend(replaced)
            group, store = original(*request.args, **request.kwargs)
            _set_default_backend(group, replaced)
            c10d._world.pg_map[group] = (asked, store)
            return group, store

        self._wrapper = make_group
        c10d._new_process_group_helper = make_group

    def restore(self) -> None:
        """Ends the replacement. It may be called again."""
        c10d = _c10d()
        self._active = False
        # A later wrapper of the function may still call this one, which then does nothing.
        if c10d._new_process_group_helper is self._wrapper:
            c10d._new_process_group_helper = self._original

    def __enter__(self) -> GlooReplacement:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the replacement."""
        self.restore()


def replace_gloo() -> GlooReplacement:
    """Makes torch.distributed use fastgpu where a program asks for gloo on CPU, or for no backend.

    Call it on every rank, before the process groups are made. `FASTGPU_REPLACE_GLOO=1` in the
    environment does the same without a change of the program.

    `cpu:gloo,cuda:nccl` becomes `cpu:fastgpu,cuda:nccl`. `gloo` on a machine with CUDA becomes
    `cpu:fastgpu,cuda:gloo`. If a rank cannot use fastgpu, all ranks of the group use gloo; the log
    says why. `torch.distributed.get_backend` still returns what the program asked for, and
    `torch.distributed.get_backend_config` what is used.

    Returns:
        A handle: its `restore()` ends the replacement, and so does its use in a `with` statement.
    """
    return GlooReplacement()


_from_environment: GlooReplacement | None = None


def follow_environment() -> None:
    """Replaces gloo if FASTGPU_REPLACE_GLOO is 1; only the first call has an effect."""
    global _from_environment
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        warnings.warn(
            f"{VARIABLE} is {value!r}, which is not allowed, and gloo is not replaced; set it to "
            "0 or 1",
            stacklevel=2,
        )
    if value == "1" and _from_environment is None:
        _from_environment = replace_gloo()


def ignore_environment() -> None:
    """Undoes follow_environment(), in a program that compares fastgpu with gloo."""
    if _from_environment is not None:
        _from_environment.restore()


def decide(devices: Mapping[str, str], ballots: Sequence[Ballot]) -> Verdict:
    """Returns the verdict for a group whose program asked for the backends `devices`, by device."""
    objections = [f"rank {rank}: {one.why_not}" for rank, one in enumerate(ballots) if one.why_not]
    if objections:
        return Verdict("", "; ".join(objections))
    chosen = {**devices, "cpu": "fastgpu"}
    # gloo takes CUDA tensors too. If no rank has CUDA, a second backend would only cost time.
    if chosen.get("cuda") == "gloo" and not any(ballot.has_cuda for ballot in ballots):
        del chosen["cuda"]
    return Verdict(",".join(f"{device}:{backend}" for device, backend in chosen.items()), "")


def _c10d() -> Any:
    from torch.distributed import distributed_c10d

    return distributed_c10d


def _replaced_backend(request: Mapping[str, Any]) -> str:
    """Returns the backends to use instead of the requested ones, or "" to leave the request.

    Args:
        request: The arguments of torch's `_new_process_group_helper`.
    """
    c10d = _c10d()
    asked, rank = request["backend"], request["group_rank"]
    # A rank outside the group has no group_rank.
    if rank is None or not ("gloo" in asked.lower() or asked == c10d.Backend.UNDEFINED):
        return ""
    devices: dict[str, str] = c10d.BackendConfig(asked).get_device_backend_map()
    if devices.get("cpu") != c10d.Backend.GLOO:
        if c10d.Backend.GLOO in devices.values():
            _log_once(rank, "gloo_kept", f"{asked} is for other devices than cpu")
        return ""
    custom = [name for name in devices.values() if _is_plugin(name)]
    if custom:
        _log_once(
            rank, "gloo_kept", f"torch takes one plugin per group, and {asked} has {custom[0]}"
        )
        return ""
    verdict = _vote(request, devices)
    if verdict.why_not:
        _log_once(rank, "gloo_kept", verdict.why_not)
    else:
        named = "named no backend" if asked == c10d.Backend.UNDEFINED else f"asked for {asked}"
        _log_once(rank, "gloo_replaced", f"a program {named}: it gets {verdict.backend}")
    return verdict.backend


def _is_plugin(backend: str) -> bool:
    """Tells whether the backend has torch's type CUSTOM, of which a group can hold one backend."""
    from torch.distributed import Backend, ProcessGroup

    return Backend.backend_type_map.get(backend) == ProcessGroup.BackendType.CUSTOM


def _vote(request: Mapping[str, Any], devices: Mapping[str, str]) -> Verdict:
    """Collects the ballots of all ranks on rank 0, which publishes the verdict.

    Raises:
        RendezvousError: Some ranks did not vote within the group's time-out; the message names
            them.
    """
    import torch
    from torch.distributed import PrefixStore

    rank, size, timeout = request["group_rank"], request["group_size"], request["timeout"]
    part = PrefixStore(f"{request['group_name']}/replace_gloo/", request["store"])
    # A job may destroy a group and make it again on the same store.
    store = PrefixStore(f"{part.add(f'uses/{rank}', 1)}/", part)
    ballot = Ballot(_why_not_available(), torch.cuda.is_available())
    store.set(f"ballot/{rank}", json.dumps(asdict(ballot)))
    try:
        if rank == 0:
            keys = [f"ballot/{peer}" for peer in range(size)]
            store.wait(keys, timeout)
            verdict = decide(devices, [Ballot(**json.loads(one)) for one in store.multi_get(keys)])
            store.set("verdict", json.dumps(asdict(verdict)))
            return verdict
        store.wait(["verdict"], timeout)
    except RuntimeError as error:
        _raise_if_missing(store, request, timeout, error)
        raise
    return Verdict(**json.loads(store.get("verdict")))


def _raise_if_missing(
    store: dist.Store, request: Mapping[str, Any], timeout: timedelta, error: RuntimeError
) -> None:
    from fastgpu_comm.errors import RendezvousError

    rank, size = request["group_rank"], request["group_size"]
    missing = [str(peer) for peer in range(size) if not store.check([f"ballot/{peer}"])]
    if not missing:
        return
    raise RendezvousError(
        f"rank {rank}, group '{request['group_name']}': of {size} ranks these did not agree to "
        f"replace gloo within {timeout.total_seconds():g} s: {', '.join(missing)} "
        f"({error}); check that they were started, and set {VARIABLE}=1, or call replace_gloo(), "
        "on every rank"
    ) from error


def _why_not_available() -> str:
    """Returns why this process cannot use fastgpu, or ""."""
    try:
        _make_lone_group(os.getpid())
    except Exception as error:  # gloo may work nevertheless
        return f"{type(error).__name__}: {error}"
    return ""


@functools.cache
def _make_lone_group(pid: int) -> None:
    """Makes a group of one rank, which needs all of a process that a larger group needs.

    Once per process is enough; a forked process has another `pid`.
    """
    from torch.distributed import HashStore

    from fastgpu_comm import native

    native.Backend(HashStore(), 0, 1, native.Options()).shutdown()


def _set_default_backend(group: dist.ProcessGroup, backend: str) -> None:
    """Sets the default backend of a new group, which torch leaves out for a list of devices.

    The fastgpu backend must not get torch's type GLOO: the logger of DistributedDataParallel casts
    a backend of that type to ProcessGroupGloo.
    """
    from torch.distributed import ProcessGroup

    used = {one.partition(":")[2] for one in backend.split(",")}
    if used == {"fastgpu"}:
        group._set_default_backend(ProcessGroup.BackendType.CUSTOM)
    elif used == {"fastgpu", "gloo"}:
        group._set_default_backend(ProcessGroup.BackendType.GLOO)


_logged: set[tuple[str, str]] = set()


def _log_once(rank: int, event: str, reason: str) -> None:
    """Writes a line of the package's log on rank 0, once per process and reason.

    The level is one that is shown by default, because the program itself still speaks of gloo.
    """
    key = (event, reason if event == "gloo_kept" else "")
    if key in _logged:
        return
    _logged.add(key)
    if rank == 0 and os.environ.get("FASTGPU_LOG") != "error":
        text = json.dumps(reason.replace("\n", " "), ensure_ascii=False)
        print(f"fastgpu level=warn event={event} reason={text}", file=sys.stderr, flush=True)
