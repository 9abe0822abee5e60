"""Mistakes of a new user in Python get errors in words, never signatures of pybind."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

import fastgpu_comm
from fastgpu_comm.backend import create

GROUP: Any = object()
OPTIONS: Any = fastgpu_comm.Options  # its types are what the tests get wrong
ALLOWED_TIMEOUT = r"must be a datetime\.timedelta, such as timedelta\(seconds=30\), not "


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: OPTIONS("ring"),
            TypeError,
            r"Options takes keywords only, such as Options\(algorithm='ring'\); it got \('ring',\)",
        ),
        (
            lambda: OPTIONS(timeout=30),
            TypeError,
            rf"Options\.timeout {ALLOWED_TIMEOUT}int 30",
        ),
        (
            lambda: OPTIONS(timeout="30"),
            TypeError,
            rf"Options\.timeout {ALLOWED_TIMEOUT}str '30'",
        ),
        (
            lambda: fastgpu_comm.Options(timeout=datetime.timedelta(seconds=-1)),
            ValueError,
            "timeout is -1000 ms; set it to 0 or more",
        ),
        (
            lambda: fastgpu_comm.Options(algoritm="ring"),
            ValueError,
            "there is no option 'algoritm'; the options are algorithm, ",
        ),
        (
            lambda: fastgpu_comm.Options(algorithm=None, algoritm=None),
            ValueError,
            "there is no option 'algoritm'",
        ),
        (
            lambda: OPTIONS(lanes=[2]),
            ValueError,
            r"option 'lanes' is '\[2\]', which is not allowed; set it to: auto, or 1 to 16",
        ),
        (
            lambda: setattr(fastgpu_comm.Options(), "lanes", -1),
            ValueError,
            "option 'lanes' is '-1', which is not allowed",
        ),
        (
            lambda: create(GROUP, "ring"),  # type: ignore[arg-type]
            TypeError,
            r"pg_options .* must be fastgpu_comm\.Options, such as .*, not 'ring'",
        ),
        (
            lambda: create(GROUP, {"algorithm": "ring"}),  # type: ignore[arg-type]
            TypeError,
            "must be fastgpu_comm.Options, such as .*, not {'algorithm': 'ring'}",
        ),
        (
            lambda: create(GROUP, fastgpu_comm.Options),  # type: ignore[arg-type]
            TypeError,
            "must be fastgpu_comm.Options, such as .*, not <class",
        ),
        (lambda: fastgpu_comm.stats(), ValueError, "call torch.distributed.init_process_group"),
        (
            lambda: fastgpu_comm.stats(5),  # type: ignore[arg-type]
            TypeError,
            "group must be a process group of torch.distributed, not 5",
        ),
        (
            lambda: fastgpu_comm.stats(dist.GroupMember.NON_GROUP_MEMBER),  # type: ignore[arg-type]
            ValueError,
            "this rank is not a member of the group",
        ),
        (
            lambda: fastgpu_comm.monitored_barrier(timeout=5),  # type: ignore[arg-type]
            TypeError,
            rf"timeout {ALLOWED_TIMEOUT}5",
        ),
        (
            lambda: fastgpu_comm.monitored_barrier(wait_all_ranks=1),  # type: ignore[arg-type]
            TypeError,
            "wait_all_ranks is 1; it must be True or False",
        ),
    ],
)
def test_mistakes_are_answered_in_words(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        make()
    assert "incompatible" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_none_leaves_an_option_to_its_variable() -> None:
    options = fastgpu_comm.Options(algorithm="ring", lanes=2, timeout=None)
    assert not options.timeout_is_set
    options.algorithm = None
    assert options.algorithm is None
    assert repr(options) == "fastgpu_comm.Options(lanes='2')"


def test_a_group_of_another_backend_is_named() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"backend is gloo, not fastgpu; make one with .*new"):
            fastgpu_comm.stats()
    finally:
        dist.destroy_process_group()
