"""Tests of torch's RPC that make a process group, for torch_suite.py.

RPC itself runs on TensorPipe, which is part of torch and no backend. These tests use a process
group beside it: DistributedDataParallel with distributed autograd, and the order in which RPC and
the group start.
"""

from __future__ import annotations

import inspect
import unittest
from collections.abc import Iterator
from typing import Any

GATES = (
    '`torch.distributed.init_process_group(backend="gloo")`, which the tests of RPC call: the '
    "backend under test takes gloo's place",
)
# All tests of this module's classes make a process group, mostly in a method that they share.
WITH_DDP = "ddp_under_dist_autograd_test"


def chosen() -> Iterator[tuple[type[unittest.TestCase], str]]:
    """Yields the tests that make a process group, as a class and the name of its method."""
    import torch.multiprocessing
    from torch.testing._internal.common_distributed import MultiProcessTestCase
    from torch.testing._internal.distributed import rpc_utils
    from torch.testing._internal.distributed.rpc import tensorpipe_rpc_agent_test_fixture

    fixture = tensorpipe_rpc_agent_test_fixture.TensorPipeRpcAgentTestFixture

    def set_up(self: Any) -> None:
        super(type(self), self).setUp()
        self._start_processes(torch.multiprocessing.get_context("fork").Process)

    for suite in (*rpc_utils.GENERIC_TESTS, *rpc_utils.TENSORPIPE_TESTS):
        bases: Any = (suite, fixture, MultiProcessTestCase)
        case: Any = type(suite.__name__, bases, {"setUp": set_up})
        for name in unittest.TestLoader().getTestCaseNames(case):
            source = inspect.getsource(getattr(case, name))
            if suite.__module__.endswith(WITH_DDP) or "init_process_group" in source:
                yield case, name


def ranks_of(case: type[unittest.TestCase]) -> int:
    """Returns the number of ranks, which the class of a test fixes."""
    instance: Any = case()
    return int(instance.world_size)


def select(backend: str) -> None:
    """Makes `torch.distributed.init_process_group` put a backend in the place of gloo."""
    import torch.distributed as dist

    original = dist.distributed_c10d.init_process_group

    def init_process_group(*args: Any, **kwargs: Any) -> None:
        if kwargs.get("backend") == "gloo":
            kwargs["backend"] = backend
        original(*args, **kwargs)

    dist.init_process_group = init_process_group
