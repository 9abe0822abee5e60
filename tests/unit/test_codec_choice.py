"""codec="auto" on simulated links: the choice, its margin, and when it is made again."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.unit.simulated_links import (
    BITS,
    BUCKETS,
    NONE,
    ONE_BUCKET,
    SEARCH,
    Link,
    Model,
    World,
    chooser_of,
    named,
    restart,
)

from fastgpu_comm import codec_choice, codecs, native
from fastgpu_comm.codec_choice import CodecChooser


@pytest.fixture(autouse=True)
def reducers(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_buckets(model: Model, buckets: list[list[int]]) -> None:
        model.buckets = buckets

    monkeypatch.setattr(native, "buckets_of", lambda model: model.buckets)
    monkeypatch.setattr(native, "set_buckets", set_buckets)


@pytest.mark.parametrize(
    ("gb_per_s", "expected"),
    [
        (50.0, ["none"] * 4),  # backward hides the reductions
        (0.9, ["none"] * 3 + ["int4"]),  # it hides all but the last bucket
        (0.5, ["none"] + ["int4"] * 3),
        (0.1, ["int4"] * 4),
        (0.01, ["int4"] * 4),
    ],
)
def test_choice_by_link(gb_per_s: float, expected: list[str]) -> None:
    world = World(Link(gb_per_s * 1e9))
    world.run(SEARCH)
    report = world.report()
    assert report["settled"]
    assert world.codecs() == expected, report
    for bucket in report["buckets"]:
        assert bucket["link_bytes_per_s"] == pytest.approx(gb_per_s * 1e9, rel=0.01)


def test_shared_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", codec_choice.__name__)
    world = World(Link(1e6))
    world.run(SEARCH)
    assert set(world.codecs()) == {"int4"}
    restart(world.choosers[0], on_one_host=True)
    assert "share memory" in caplog.messages[-1]
    for _ in range(SEARCH):
        world.run(1)
        assert set(world.models[0].encodings) == {NONE}
    assert world.report()["settled"]
    assert "share memory" in world.report()["reason"]
    assert set(world.codecs()) == {"none"}


def test_memory_that_is_faster_than_codecs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", codec_choice.__name__)
    slow = {"int8": 2e-9, "int4": 2e-9}
    world = World(Link(1e9, codec_s=slow))
    world.run(SEARCH + 2 * codec_choice.EVERY)
    (line,) = caplog.messages
    assert re.match(r"codec auto takes none: .* none, .* int8, .* int4.*int8 [\d.]+, int4", line)
    report = world.report()
    assert world.codecs() == ["none"] * 4
    assert report["pass_s"]["none"] < report["pass_s"]["int8"]
    assert "int8" in report["reason"]
    assert "none" in report["reason"]
    assert world.models[0].buckets == BUCKETS  # not split


@pytest.mark.parametrize(("gain", "expected"), [(0.02, "none"), (0.06, "int8")])
def test_a_codec_must_gain_more_than_the_margin(gain: float, expected: str) -> None:
    link = Link(1e8)
    costs = {}
    for codec in ("int8", "int4"):
        saved = (1 - BITS[codec] / 32) / link.bytes_per_s
        costs[codec] = saved - (gain if codec == "int8" else 0.0) / link.bytes_per_s
    world = World(Link(1e8, codec_s=costs))
    world.run(SEARCH)
    assert set(world.codecs()) == {expected}


def test_less_loss_within_the_margin() -> None:
    link = Link(1e8)
    int4_s = (BITS["int8"] - BITS["int4"]) / 32 / link.bytes_per_s
    world = World(Link(1e8, codec_s={"int8": 0.0, "int4": int4_s}))
    world.run(SEARCH)
    assert set(world.codecs()) == {"int8"}


def test_noise() -> None:
    for gb_per_s in (0.02, 0.05, 0.2, 0.4, 1, 2, 4):
        quiet = {}
        for codec in BITS:
            model = Model(Link(gb_per_s * 1e9))
            if codec != "none":
                model.buckets = [[index] for index in range(8)]
                model.encodings = [codecs.encoding_of(codecs.find(codec)), NONE] * 4
            quiet[codec] = model.run()
        noisy = World(Link(gb_per_s * 1e9, noise=0.03))
        noisy.run(SEARCH)
        noisy.models[0].link = Link(gb_per_s * 1e9)
        assert noisy.run(1) <= 1.05 * min(quiet.values())


@pytest.mark.parametrize("late", range(codec_choice.WARM_UP, codec_choice.WARM_UP + 5))
def test_one_late_pass_does_not_end_the_search(late: int) -> None:
    world = World(Link(1e8))
    (model,) = world.models
    world.run(late)
    usual, model.lead_s = model.lead_s, 1.0  # longer than a reduction of all gradients
    world.run(1)
    model.lead_s = usual
    world.run(SEARCH)
    assert set(world.codecs()) == {"int4"}, world.report()["reason"]


def test_all_ranks_decide_alike() -> None:
    world = World(Link(1e8, noise=0.1), ranks=3)
    world.models[1].random.seed(1)
    world.models[2].random.seed(2)
    world.run(SEARCH)  # which compares buckets and codecs in each pass
    first, *others = [chooser.report() for chooser in world.choosers]
    assert first["settled"]
    assert all(other["pass_s"] == first["pass_s"] for other in others)


def test_another_link_is_noticed() -> None:
    world = World(Link(50e9))
    world.run(SEARCH)
    assert set(world.codecs()) == {"none"}
    for model in world.models:
        model.link = Link(1e8)
    world.run(2 * codec_choice.EVERY)
    assert set(world.codecs()) == {"int4"}
    passes = [set(world.models[0].encodings) for _ in range(codec_choice.EVERY) if world.run(1)]
    int4 = codecs.encoding_of(codecs.int4)
    assert all(int4 in encodings for encodings in passes)  # no choice is tried again


def test_new_group() -> None:
    world = World(Link(1e8))
    world.run(SEARCH)
    restart(world.choosers[0])
    assert set(world.models[0].encodings) == {NONE}
    assert not world.report()["settled"]
    assert world.choosers[0].plan == named(BUCKETS)  # not as codecs have split them
    world.run(SEARCH)
    assert world.report()["settled"]
    restart(world.choosers[0])
    world.run(1)
    world.models[0].buckets = ONE_BUCKET  # as torch does for a new group
    world.run(codec_choice.WARM_UP)
    assert world.choosers[0].plan == named(ONE_BUCKET)


@pytest.mark.parametrize(("gb_per_s", "codec"), [(1.0, "none"), (0.5, "int4")])
def test_smaller_buckets(gb_per_s: float, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    """Torch's only bucket is full when backward ends; its parts are sent before that."""
    caplog.set_level("INFO", codec_choice.__name__)
    costs = {"int8": 1e-9, "int4": 1e-9 if codec == "none" else 1.5e-10}
    world = World(Link(gb_per_s * 1e9, codec_s=costs), ranks=3, buckets=ONE_BUCKET)
    whole_s = world.models[0].run()
    world.run(SEARCH)
    report = world.report()
    assert world.codecs() == [codec]
    assert report["limit_bytes"] == 8 << 20  # smaller ones gain no more
    assert world.choosers[0].plan == named(BUCKETS)
    tried = {f"{codec}{part}" for part in ("", " in parts of 8 MiB", " in parts of 3 MiB")}
    assert tried <= set(report["pass_s"])
    assert report["pass_s"][f"{codec} in parts of 8 MiB"] < 0.9 * report["pass_s"][codec]
    assert world.run(1) < 0.9 * whole_s
    assert report["buckets"][0]["link_bytes_per_s"] == pytest.approx(gb_per_s * 1e9, rel=0.01)
    assert len(caplog.messages) == len(world.choosers)  # one line of each rank 0
    assert f"takes {codec} in parts of 8 MiB: " in caplog.messages[0]
    assert f"s with {codec} in parts of 3 MiB" in caplog.messages[0]


def test_smaller_buckets_that_gain_nothing() -> None:
    link = Link(0.5e9, start_s=0.02)
    world = World(link, buckets=ONE_BUCKET)
    world.run(SEARCH)
    report = world.report()
    assert "int4 in parts of 8 MiB" in report["pass_s"]
    assert report["limit_bytes"] is None
    assert world.choosers[0].plan == named(ONE_BUCKET)


def test_smaller_buckets_that_can_gain_nothing() -> None:
    """Backward hides a codec's reductions, then all reductions."""
    world = World(Link(20e9, codec_s={}), buckets=ONE_BUCKET)
    world.run(SEARCH)
    assert world.report()["settled"]
    assert set(world.report()["pass_s"]) == {"none", "int8", "int4"}
    world = World(Link(50e9), buckets=ONE_BUCKET)
    world.run(SEARCH)
    assert set(world.report()["pass_s"]) == {"none"}


def test_a_link_that_changes_during_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are compared with a measurement as late as theirs."""
    int8_s = 1.08 * (1 - BITS["int8"] / 32) / 0.25e9  # not much slower than none
    link = Link(0.25e9, codec_s={"int8": int8_s, "int4": 1e-8})
    try_sizes: Any = CodecChooser._try_sizes

    def change_before(self: CodecChooser, choice: codec_choice.Choice) -> Any:
        link.bytes_per_s, link.start_s = 2e9, 0.02
        return try_sizes(self, choice)

    monkeypatch.setattr(CodecChooser, "_try_sizes", change_before)
    world = World(link, buckets=ONE_BUCKET)
    world.run(SEARCH)
    report = world.report()
    assert world.codecs() == ["none"]
    assert report["limit_bytes"] is None
    assert report["pass_s"]["none"] < report["pass_s"]["none in parts of 8 MiB"]


def test_a_choice_in_use_stays_within_the_margin_though_in_smaller_buckets() -> None:
    world = World(Link(0.5e9), buckets=ONE_BUCKET)
    world.run(SEARCH)
    assert world.codecs() == ["int4"]
    assert world.report()["limit_bytes"] is not None
    slow = 0.05e9
    saved_s = (BITS["int8"] - BITS["int4"]) / 32 / slow  # makes int8 as fast as int4
    for model in world.models:
        model.link = Link(slow, codec_s={"int8": 0.0, "int4": saved_s})
    world.run(codec_choice.EVERY + SEARCH)
    times = world.report()["pass_s"]
    assert times["int8"] == pytest.approx(times["int4"], rel=codec_choice.MARGIN / 2)
    assert world.codecs() == ["int4"]


def test_given_buckets_keep_their_sizes() -> None:
    world = World(Link(1e9), buckets=ONE_BUCKET)
    restart(world.choosers[0], plan=named(ONE_BUCKET))
    assert world.choosers[0].plan == named(ONE_BUCKET)
    world.run(SEARCH)
    report = world.report()
    assert report["settled"]
    assert report["limit_bytes"] is None
    assert not any("parts" in name for name in report["pass_s"])


def test_a_new_search_begins_with_torchs_buckets() -> None:
    world = World(Link(0.5e9), buckets=ONE_BUCKET)
    world.run(SEARCH)
    assert world.report()["limit_bytes"] is not None
    for model in world.models:
        model.link = Link(0.5e9, start_s=0.02)
    world.run(codec_choice.EVERY + SEARCH)
    assert world.report()["limit_bytes"] is None
    for model in world.models:
        model.link = Link(0.5e9)
    restart(world.choosers[0])
    world.run(SEARCH)
    assert world.choosers[0].plan == named(BUCKETS)
    restart(world.choosers[0])
    assert world.choosers[0].plan == named(ONE_BUCKET)


def test_a_search_is_short() -> None:
    """Also if all choices are about as fast."""
    costs = {codec: (1 - BITS[codec] / 32) / 0.5e9 for codec in ("int8", "int4")}
    world = World(Link(0.5e9, codec_s=costs), buckets=ONE_BUCKET)
    passes = 0
    while not world.report()["settled"]:
        world.run(1)
        passes += 1
    assert {"int4", "none in parts of 3 MiB"} <= set(world.report()["pass_s"])
    assert passes <= 94


def test_ranks_restart_together_though_one_had_a_forward_pass_more() -> None:
    world = World(Link(1e8), ranks=2)
    world.run(SEARCH)
    world.choosers[0].before_pass()
    for chooser in world.choosers:
        restart(chooser)
    world.run(SEARCH)  # compares the ranks before each pass
    assert world.report()["settled"]


def test_a_bucket_that_took_no_time_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Link(1e8))
    world.run(SEARCH)
    chooser = world.choosers[0]
    monkeypatch.setattr(chooser, "_durations", lambda _: [0.0] * len(BUCKETS))
    assert {bucket["link_bytes_per_s"] for bucket in chooser.report()["buckets"]} == {None}


def test_small_parameters_alone() -> None:
    model = Model(Link(1e6))
    chooser = chooser_of(model, [None] * 8)
    restart(chooser)
    for _ in range(10):
        chooser.before_pass()
        model.run()
    assert chooser.report()["settled"]
    assert {bucket["codec"] for bucket in chooser.report()["buckets"]} == {"none"}
