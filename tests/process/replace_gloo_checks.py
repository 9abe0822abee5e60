"""Checks of fastgpu_comm.replace_gloo. Run by test_replace_gloo.py, in a default group of gloo."""

from __future__ import annotations

import contextlib
import io
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.reference import same
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed import fake_pg

import fastgpu_comm

CPU = torch.device("cpu")


def used(group: dist.ProcessGroup) -> str:
    """Returns the name of the backend that runs the group's operations on CPU tensors."""
    backend = group._get_backend(CPU)
    return str(getattr(backend, "wrapped_pg", backend).name())


def group_of(backend: str | None) -> dist.ProcessGroup:
    """Makes a group of all ranks, and uses it."""
    group: dist.ProcessGroup = dist.new_group(backend=backend)
    tensor = torch.full((3,), 2.0)
    dist.all_reduce(tensor, group=group)
    same(tensor, torch.full((3,), 2.0 * group.size()))
    return group


def every_way_to_ask() -> None:
    """Names in both cases, by device, and no name; the group says gloo, and is fastgpu."""
    with fastgpu_comm.replace_gloo():
        for asked in ("gloo", "GLOO", dist.Backend.GLOO, None):
            group = group_of(asked)
            assert used(group) == "fastgpu"
            assert dist.get_backend(group) == "gloo"
            assert dist.get_backend_config(group) == "cpu:fastgpu"
            dist.monitored_barrier(group, timedelta(seconds=60))
            assert group._device_types == [CPU]
        # Its logger takes a backend of torch's type GLOO for a ProcessGroupGloo, without a check.
        model = DistributedDataParallel(torch.nn.Linear(2, 1), process_group=group)
        model(torch.ones(3, 2)).sum().backward()
        by_device = group_of("cpu:gloo")
        assert used(by_device) == "fastgpu"
        assert dist.get_backend(by_device) == "cpu:gloo"
        assert dist.is_gloo_available()
        assert dist.is_backend_available("gloo")
        assert used(group_of("fastgpu")) == "fastgpu"
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()  # as a program for gloo may pass
        assert used(dist.new_group(backend="gloo", pg_options=options)) == "fastgpu"
        with pytest.raises(TypeError, match=r"not \{\}"):
            dist.new_group(backend="gloo", pg_options={})


def undone() -> None:
    """After restore(), new groups are gloo's and the others stay; handles end in any order."""
    original = dist.distributed_c10d._new_process_group_helper
    with fastgpu_comm.replace_gloo():
        replaced = group_of("gloo")
    assert dist.distributed_c10d._new_process_group_helper is original
    assert used(group_of("gloo")) == "gloo"
    tensor = torch.ones(3)
    dist.all_reduce(tensor, group=replaced)
    same(tensor, torch.full((3,), float(replaced.size())))
    assert used(replaced) == "fastgpu"
    dist.destroy_process_group(replaced)

    first, second = fastgpu_comm.replace_gloo(), fastgpu_comm.replace_gloo()
    assert used(group_of("gloo")) == "fastgpu"
    first.restore()
    first.restore()
    assert used(group_of("gloo")) == "fastgpu"
    second.restore()
    assert used(group_of("gloo")) == "gloo"


def subgroups() -> None:
    """Groups of some of the ranks, and those of a device mesh."""
    rank, world = me_and_world()
    with fastgpu_comm.replace_gloo():
        half, _ = dist.new_subgroups(world // 2)
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("rows", "columns"))
        ranks = list(range(1, world))
        some = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    for group in (half, mesh.get_group("rows"), mesh.get_group("columns")):
        assert used(group) == "fastgpu"
        tensor = torch.ones(3)
        dist.all_reduce(tensor, group=group)
        same(tensor, torch.full((3,), float(group.size())))
    if rank in ranks:
        assert some is not None
        assert used(some) == "fastgpu"
        assert dist.get_process_group_ranks(some) == ranks


def other_devices() -> None:
    """Gloo stays for CUDA alone, and beside another plugin; the log says so."""
    rank, _ = me_and_world()
    assert fake_pg.__name__ in sys.modules  # registers the backend `fake`
    log = io.StringIO()
    with fastgpu_comm.replace_gloo(), contextlib.redirect_stderr(log):
        mixed = group_of("cpu:gloo,cuda:fake")
        cuda = dist.new_group(backend="cuda:gloo")
    assert dist.get_backend_config(mixed) == "cpu:gloo,cuda:fake"
    assert dist.get_backend_config(cuda) == "cuda:gloo"
    reasons = ("one plugin per group, and cpu:gloo,cuda:fake has fake", "other devices than cpu")
    for reason in reasons:
        assert (reason in log.getvalue()) == (rank == 0)


def one_rank_forgot() -> None:
    """A rank that does not replace gloo is named, when the group's time-out has passed."""
    rank, _ = me_and_world()
    brief = timedelta(seconds=3)
    if rank == 1:
        with pytest.raises(RuntimeError):
            dist.new_group(backend="gloo", timeout=brief)
        return
    missing = r"these did not agree to replace gloo within 3 s: 1 .*FASTGPU_REPLACE_GLOO=1"
    with fastgpu_comm.replace_gloo(), pytest.raises(fastgpu_comm.RendezvousError, match=missing):
        dist.new_group(backend="gloo", timeout=brief)
