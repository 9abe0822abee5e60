"""Checks of codec="auto" on every rank: agreement, and residuals when codecs change.

All but `shared_memory` run over TCP. Over shared memory nothing is tried.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import gradients, inputs, loss_of, net, same_everywhere
from torch import nn

from fastgpu_comm import DistributedDataParallel

LARGE = "2.weight"  # the only parameter of net() that a codec may encode
PART = 8192  # bytes, less than those of LARGE, and more than those of the others together
SEARCH = 100  # passes in which a choice is made


def script(
    model: DistributedDataParallel, names: Iterable[str], limits: Iterable[int | None] = ()
) -> None:
    """Lets the model run each pass with a given codec, instead of what it would choose.

    `limits` has the most bytes of a bucket in each pass; after its end buckets are not split.
    """
    chooser = model._chooser
    assert chooser is not None

    def steps() -> Iterator[None]:
        for name, limit in itertools.zip_longest(names, limits):
            chooser._chosen = chooser._uniform(name)._replace(limit=limit)
            chooser._use(chooser._chosen)
            yield None

    chooser._buckets = chooser._reducers_buckets()
    chooser._steps = steps()


def step(model: nn.Module, number: int) -> None:
    rank, _ = me_and_world()
    model.zero_grad()
    loss_of(model, inputs(number, rank)).backward()


def searches() -> None:
    """All ranks have the same bits in each pass of a search, in every mode of torch's class."""
    rank, _ = me_and_world()
    for views, static, unused in itertools.product((False, True), repeat=3):
        model = DistributedDataParallel(
            net(),
            codec="auto",
            bucket_cap_mb=0.02,
            gradient_as_bucket_view=views,
            static_graph=static,
            find_unused_parameters=unused and not static,
        )
        for number in range(SEARCH):
            if number % 3 == 0 and rank == 0 and number > 3:
                model(inputs(number, rank))  # a forward pass of one rank alone
            step(model, number)
            same_everywhere(gradients(model))
        choice = model.codec_choice()
        assert choice["settled"], choice
        assert {"none"} <= set(choice["pass_s"])
        listed = [name for bucket in choice["buckets"] for name in bucket["parameters"]]
        assert sorted(listed) == sorted(dict(model.module.named_parameters()))
        reports: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(reports, [(b["codec"], b["seconds"]) for b in choice["buckets"]])
        assert all(report == reports[0] for report in reports)


def residuals_are_delivered() -> None:
    """Results and residuals add up to the exact gradients, also when the codec changes."""
    _, world = me_and_world()
    model = DistributedDataParallel(net(), codec="auto")
    plain = net()
    with torch.no_grad():
        for each, value in zip(model.module.parameters(), plain.parameters(), strict=True):
            each.copy_(value)
    total, exact = torch.zeros(96, 96), torch.zeros(96, 96)
    for number in range(2):  # torch rebuilds its buckets
        step(model, number)
    script(model, ["none", "int4", "int4", "int8", "none", "none", "int4", "none"])
    for number, encoded in enumerate((0, 1, 1, 1, 0, 0, 1, 0)):
        step(model, number)
        same_everywhere(gradients(model))
        total += gradients(model)[2]
        for each in range(world):
            plain.zero_grad()
            loss_of(plain, inputs(number, each)).backward()
            exact.add_(gradients(plain)[2], alpha=1 / world)
        kept = model.reducer_state_dict()["residuals"]
        assert set(kept) == ({LARGE} if encoded else set())
        owed = kept.get(LARGE, torch.zeros(96, 96))
        dist.all_reduce(owed)
        assert bool(owed.any()) == bool(encoded)
        torch.testing.assert_close(total + owed, exact, rtol=1e-4, atol=1e-6)


def skipped_delivery() -> None:
    """A step that GradScaler skips leaves a residual as it was, also if the step delivered it."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec="auto")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1000)
    model.follow_scaler(scaler)

    def scaled(number: int, poison: bool) -> None:
        optimizer.zero_grad()
        loss = scaler.scale(loss_of(model, inputs(number, rank)))
        (loss * float("inf") if poison else loss).backward()
        scaler.step(optimizer)
        scaler.update()

    scaled(0, False)
    scaled(1, False)
    script(model, ["int4", "none", "none", "none"])
    scaled(2, False)
    before = model.reducer_state_dict()["residuals"][LARGE]
    scaled(3, rank == world - 1)
    assert scaler.get_scale() == 128.0
    # They were delivered to a step that was skipped, so they are back.
    torch.testing.assert_close(
        model.reducer_state_dict()["residuals"][LARGE], before / 2, rtol=0, atol=0
    )
    scaled(4, False)
    state = model.reducer_state_dict()
    assert not state["residuals"]
    model.load_reducer_state_dict(state)
    scaler.update(64.0)  # the step before the loading is not undone
    assert not model.reducer_state_dict()["residuals"]


def saved_and_copied() -> None:
    """A checkpoint, a copy and a pickle keep residuals, which join the next gradients."""
    model = DistributedDataParallel(net(), codec="auto")
    for number in range(2):
        step(model, number)
    script(model, ["int4"] * 3)
    for number in range(3):
        step(model, number)
    file = io.BytesIO()
    torch.save(model.reducer_state_dict(), file)
    file.seek(0)
    state = torch.load(file)
    assert set(state["residuals"]) == {LARGE}
    assert [LARGE] not in state["bucket_plan"]  # as torch built it, not split by codec
    exact = DistributedDataParallel(net())
    step(exact, 3)
    expected = gradients(exact)[2]
    resumed = DistributedDataParallel(net(), codec="auto")
    resumed.load_reducer_state_dict(state)
    owed = state["residuals"][LARGE].clone()
    dist.all_reduce(owed)
    for other in (resumed, copy.deepcopy(model)):
        assert not other.codec_choice()["settled"]
        assert other.bucket_plan() == state["bucket_plan"]
        step(other, 3)
        torch.testing.assert_close(gradients(other)[2], expected + owed, rtol=1e-4, atol=1e-6)
        for number in range(SEARCH):
            step(other, number)
            same_everywhere(gradients(other))
        assert other.codec_choice()["settled"]


def smaller_buckets() -> None:
    """Buckets may be split in any pass; a checkpoint keeps the parts, for another model."""
    modes: Any = itertools.product((False, True), repeat=3)
    for views, static, unused in modes:
        options = {"gradient_as_bucket_view": views, "static_graph": static}
        options["find_unused_parameters"] = unused and not static
        model = DistributedDataParallel(net(), codec="auto", **options)
        exact = DistributedDataParallel(net())
        for number in range(2):
            step(model, number)
        whole = model.bucket_plan()
        assert len(whole) == 1
        limits = [None, PART, None, PART, 1, PART]
        script(model, ["none", "none", "none", "int4", "none", "none"], limits)
        for number, limit in enumerate(limits):
            step(model, number)
            step(exact, number)
            same_everywhere(gradients(model))
            if number < 3:
                for mine, other in zip(gradients(model), gradients(exact), strict=True):
                    torch.testing.assert_close(mine, other)
            assert len(model.bucket_plan()) >= (1 if limit is None else 3)
        parts = model.bucket_plan()
        assert [LARGE] in parts
        state = model.reducer_state_dict()
        assert state["bucket_plan"] == parts
        resumed = DistributedDataParallel(net(), codec="auto", **options)
        resumed.load_reducer_state_dict(state)
        model.load_reducer_state_dict({**state, "bucket_plan": None})  # torch's buckets again
        assert resumed.reducer_state_dict()["bucket_plan"] == parts
        assert model.reducer_state_dict()["bucket_plan"] == whole
        for plan in (parts, None):  # given sizes are kept, and tried again without a plan
            resumed.load_reducer_state_dict({**state, "bucket_plan": plan})
            chooser: Any = resumed._chooser
            assert chooser._given == (plan is not None)


def shrunken() -> None:
    """A smaller group decides anew; residuals join its first gradients."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec="auto")
    for number in range(2):
        step(model, number)
    script(model, ["int4"] * 3)
    for number in range(3):
        step(model, number)
    owed = model.reducer_state_dict()["residuals"][LARGE].clone()
    smaller: Any = dist.new_group(list(range(world - 1)), backend="fastgpu")
    if rank == world - 1:
        return
    model._update_process_group(smaller)
    exact = DistributedDataParallel(net(), process_group=smaller)
    dist.all_reduce(owed, group=smaller)
    for number in range(SEARCH):
        step(model, number)
        if number == 0:
            step(exact, number)
            torch.testing.assert_close(
                gradients(model)[2], gradients(exact)[2] + owed, rtol=1e-4, atol=1e-6
            )
    assert model.codec_choice()["settled"]


def joined() -> None:
    """Ranks that run out of inputs during a search take part in it."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="auto")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with model.join():
        for number in range(6 + 20 * rank):
            step(model, number)
            optimizer.step()
    same_everywhere(list(model.parameters()))


def shared_memory() -> None:
    """Over shared memory torch reduces, as without a codec; saved residuals are delivered."""
    model = DistributedDataParallel(net(), codec="auto")
    plain = DistributedDataParallel(net())
    for number in range(4):
        for each in (model, plain):
            step(each, number)
        assert all(map(torch.equal, gradients(model), gradients(plain)))
    choice = model.codec_choice()
    assert choice["settled"]
    assert "share memory" in choice["reason"]
    assert {bucket["codec"] for bucket in choice["buckets"]} == {"none"}
    assert not model.stats()
    logged: Any = model
    assert not logged._get_ddp_logging_data().get("comm_hook")
    with pytest.raises(RuntimeError, match="can only be called once"):
        model.register_comm_hook(None, lambda state, bucket: None)
    state = model.reducer_state_dict()
    state["residuals"] = {LARGE: torch.ones(96, 96)}
    model.load_reducer_state_dict(state)
    for each in (model, plain):
        step(each, 4)
    owed = float(dist.get_world_size())
    torch.testing.assert_close(gradients(model)[2], gradients(plain)[2] + owed)
    assert not model.reducer_state_dict()["residuals"]


def residuals_of_one_rank() -> None:
    """A state without residuals may be loaded beside one that has some, and copied then."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="auto")
    state = model.reducer_state_dict()
    state["residuals"] = {LARGE: torch.ones(96, 96)} if rank == 0 else {}
    model.load_reducer_state_dict(state)
    plain = DistributedDataParallel(net())
    step(plain, 0)
    for each in (copy.deepcopy(model), model):
        step(each, 0)
        torch.testing.assert_close(gradients(each)[2], gradients(plain)[2] + 1)


def refusals() -> None:
    """codec_choice needs codec="auto", which all ranks must ask for."""
    rank, _ = me_and_world()
    with pytest.raises(ValueError, match="codec='auto'"):
        DistributedDataParallel(net(), codec="int8").codec_choice()
    with pytest.raises(RuntimeError, match="has codec='auto', and rank 1 has codec='not auto'"):
        DistributedDataParallel(net(), codec="auto" if rank == 0 else "int8")
