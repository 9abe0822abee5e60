"""The trainer's parts, each alone: settings, sample order, losses, metrics, generators, text."""

import dataclasses
import importlib
import itertools
import json
import math
import random
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.text import Text

from fastgpu_comm.trainer import Datasets, Outcome, TrainerSettings, classification, random_state
from fastgpu_comm.trainer.communication import union_s
from fastgpu_comm.trainer.curve import draw_loss_curve
from fastgpu_comm.trainer.data import BatchOrder, micro_batches
from fastgpu_comm.trainer.early_stop import EarlyStop
from fastgpu_comm.trainer.gpt import Gpt, GptShape
from fastgpu_comm.trainer.metrics import MetricLog, read
from fastgpu_comm.trainer.objective import Tally
from fastgpu_comm.trainer.precision import Precision
from fastgpu_comm.trainer.progress import ProgressView
from fastgpu_comm.trainer.text import TextWindows, standard_library_text

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, r"steps is 0; it must be a whole number of at least 1"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5; it must be a whole number"),
        ({"log_every": True}, r"log_every is True"),
        ({"evaluate_every": -1}, r"evaluate_every is -1"),
        (
            {"codec": "int7"},
            r"codec is 'int7'; it must be None, a codecs.Codec or one of fp16, bf16, .*1bit",
        ),
        ({"precision": "int8"}, r"precision is 'int8'; it must be one of fp32, bf16, fp16"),
        ({"clip_norm": 0.0}, r"clip_norm is 0\.0; .* for no clipping use None"),
        ({"clip_norm": math.nan}, r"clip_norm is nan"),
        ({"clip_norm": "1"}, r"clip_norm is '1'; it must be a number above 0"),
        ({"min_improvement": None}, r"min_improvement is None"),
        ({"folder": 5}, r"folder is 5; it must be a path, as text or pathlib\.Path, or None"),
        ({"seed": -1}, r"seed is -1; it must be a whole number from 0"),
        ({"min_improvement": -0.1}, r"min_improvement is -0\.1"),
        ({"accumulation": 9}, r"accumulation is 9; it must be at most batch_size, which is 8"),
        ({"patience": 2}, r"patience is 2; .* evaluate_every"),
        ({"resume": True}, r"checkpoint_folder is None; .* when resume is set"),
        ({"checkpoint_every": 5}, r"checkpoint_folder is None; .* checkpoint_every is set"),
    ],
)
def test_bad_settings_are_refused_in_words(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainerSettings(**{"steps": 10, "batch_size": 8, **wrong})


def test_settings_cannot_change_and_checkpoints_go_into_the_folder(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=1, batch_size=1, folder=tmp_path)
    assert settings.checkpoint_folder == tmp_path / "checkpoints"
    as_text: Any = str(tmp_path)
    assert TrainerSettings(steps=1, batch_size=1, folder=as_text) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 2  # type: ignore[misc]


def test_an_epoch_has_every_sample_once_and_the_next_another_order() -> None:
    order = BatchOrder(samples=10, batch_size=4, seed=3)
    epochs = [[order.next() for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(itertools.chain(*epoch)) == list(range(10))
    assert epochs[0] != epochs[1]


def test_a_saved_place_goes_on_with_the_same_batches() -> None:
    order = BatchOrder(samples=10, batch_size=4, seed=3)
    for _ in range(4):
        order.next()
    other = BatchOrder(samples=10, batch_size=4, seed=3)
    other.load_state_dict(order.state_dict())
    assert other.epochs == order.epochs == pytest.approx(1.4)
    assert [other.next() for _ in range(5)] == [order.next() for _ in range(5)]


def test_a_place_in_another_order_is_refused() -> None:
    state = BatchOrder(samples=10, batch_size=4, seed=3).state_dict()
    with pytest.raises(ValueError, match="written with batch_size 4, this run has 5"):
        BatchOrder(samples=10, batch_size=5, seed=3).load_state_dict(state)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ranks_share_a_batch_without_gaps_or_doubles(world: int, count: int) -> None:
    batch = [5, 9, 2, 7, 1]
    parts = [micro_batches(batch, rank, world, count) for rank in range(world)]
    assert sorted(itertools.chain(*itertools.chain(*parts))) == sorted(batch)
    assert all(piece for part in parts for piece in part)
    assert all(len(part) <= count for part in parts)


def test_empty_datasets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Datasets\.evaluation is empty"):
        Datasets([1, 2], [])


def test_batches_keep_the_structure_of_samples() -> None:
    samples = [({"x": torch.tensor([float(i)])}, i) for i in range(4)]
    batch = Datasets(samples).fetch(samples, [3, 1], CPU)
    assert batch[0]["x"].tolist() == [[3.0], [1.0]]
    assert batch[1].tolist() == [3, 1]


def test_a_tally_takes_weighted_means_and_judges_only_what_was_judged() -> None:
    tally = Tally(CPU)
    tally.add(
        Outcome(torch.tensor(2.0), predictions=3, correct=torch.tensor(0)), samples=3, weight=6
    )
    assert tally.summary()["accuracy"] == 0.0
    tally.add(Outcome(torch.tensor(6.0), predictions=1), samples=1, weight=2)
    assert tally.summary() == {"loss": 3.0, "samples": 4, "predictions": 4, "accuracy": 0.0}
    plain = Tally(CPU)
    plain.add(Outcome(torch.tensor(math.nan)), samples=2, weight=0)
    assert math.isnan(plain.summary()["loss"])
    plain.add(Outcome(torch.tensor(1.0)), samples=2, weight=2)
    assert plain.summary()["loss"] == 1.0
    assert "accuracy" not in plain.summary()


def test_classification_counts_right_answers_over_all_labels() -> None:
    scores = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]])
    labels = torch.tensor([[0, 1], [1, 0]])
    outcome = classification(torch.nn.Identity(), (scores, labels))
    assert outcome.predictions == 4
    assert outcome.correct is not None
    assert int(outcome.correct) == 3
    expected = (3 * math.log(1 + math.exp(-9)) + math.log(1 + math.exp(9))) / 4
    assert float(outcome.loss) == pytest.approx(expected, rel=1e-4)


def test_patience_runs_out_after_so_many_evaluations_without_improvement() -> None:
    stop = EarlyStop(patience=2, min_improvement=0.1)
    seen = []
    for loss in (1.0, 0.95, 0.8, math.nan, 0.75):
        stop.judge(loss)
        seen.append(stop.stopped)
    assert seen == [False, False, False, False, True]
    assert stop.best == 0.8


def test_time_in_flight_counts_overlaps_once() -> None:
    assert union_s([(5.0, 6.0), (1.0, 3.0), (2.0, 4.0), (2.5, 2.7)]) == pytest.approx(4.0)
    assert union_s([]) == 0.0


def test_generators_go_on_from_a_saved_state() -> None:
    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), random.random(), random.gauss(0, 1), float(np.random.rand())

    random_state.seed_all(5)
    random.gauss(0, 1)  # Python keeps the second of a pair
    state = random_state.save(CPU)
    first = draw()
    assert draw() != first
    random_state.restore(state, CPU)
    assert draw() == first


def test_metrics_are_lines_of_json_even_without_numbers(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "new", tensorboard=False)
    log.write({"event": "train", "step": 1, "loss": math.nan, "bytes_source": "computed"})
    log.write({"event": "train", "step": 2, "loss": 0.5})
    path = tmp_path / "new" / "metrics.jsonl"
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == ["nan", 0.5]
    log.close()
    MetricLog(tmp_path / "new", tensorboard=False).close()
    assert [record["step"] for record in read(path)] == [1, 2]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    log = MetricLog(tmp_path, tensorboard=True)
    log.write({"event": "train", "step": 7, "loss": 0.25, "bytes_source": "computed"})
    log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    (scalar,) = events.Scalars("train/loss")
    assert (scalar.step, scalar.value) == (7, 0.25)


@pytest.mark.parametrize("terminal", ["xterm", "dumb", None])
def test_progress_shows_what_counts(terminal: str | None, tmp_path: Path) -> None:
    record = {
        "event": "train",
        "step": 10,
        "loss": 1.25,
        "accuracy": 0.5,
        "predictions_per_s": 12345.0,
        "communication_share": 0.125,
    }
    with (tmp_path / "out").open("w+") as file:
        environment = {"TERM": terminal or "xterm"}
        console = Console(
            file=file, force_terminal=terminal is not None, width=160, _environ=environment
        )
        view = ProgressView(10, 0, console)
        view.record({"event": "evaluation", "step": 5, "loss": 2.5})
        view.step(10)
        view.record(record)
        view.close()
        file.seek(0)
        shown = file.read()
    for words in ("loss 1.2500", "accuracy 50.0%", "12,345", "communication 12.5%", "loss 2.5000"):
        assert words in shown
    assert "10/10" in shown


def test_a_terminal_of_80_columns_shows_the_time_left_and_the_numbers(tmp_path: Path) -> None:
    record = {
        "event": "train",
        "step": 500,
        "loss": 1.25,
        "accuracy": 0.5,
        "predictions_per_s": 12345.0,
        "communication_share": 0.125,
    }
    with (tmp_path / "out").open("w+") as file:
        environment = {"TERM": "xterm"}
        console = Console(file=file, force_terminal=True, width=80, _environ=environment)
        view = ProgressView(1000, 0, console)
        for step in (100, 500):
            view.step(step)
        view.record(record)
        view.close()
        file.seek(0)
        bar, numbers = Text.from_ansi(file.read()).plain.splitlines()[-2:]
    assert re.search(r" 500/1000 \S+ left", bar)
    assert numbers.strip().startswith("loss 1.2500  accuracy 50.0%")
    assert numbers.strip().endswith("communication 12.5%")


def test_fp16_leaves_out_a_step_whose_gradients_overflow() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = Precision("fp16", CPU)
    assert precision.scaler is not None
    precision.backward((weight * math.inf).sum())
    scale = precision.scaler.get_scale()
    assert precision.step(optimizer, clip_norm=None)[0] is False
    assert weight.tolist() == [1.0, 1.0]
    assert precision.scaler.get_scale() < scale
    optimizer.zero_grad()
    precision.backward(weight.sum())
    taken, norm = precision.step(optimizer, clip_norm=1.0)
    assert taken
    assert norm == pytest.approx(math.sqrt(2))


def test_a_precision_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(torch.nn.functional, "linear", refuse)
    with pytest.raises(ValueError, match=r"'fp16', which torch cannot train in on cpu \(no kernel"):
        Precision("fp16", CPU)
    Precision("fp32", CPU)


def test_text_is_the_same_every_time_and_its_parts_share_no_file() -> None:
    train, validation = standard_library_text(300_000)
    assert (train, validation) == standard_library_text(300_000)
    assert 300_000 <= len(train) + len(validation) < 1_000_000
    assert len(validation) > 1000
    assert validation[:2000] not in train
    more, _ = standard_library_text(400_000)
    assert more.startswith(train)


def test_windows_of_text_touch_and_targets_are_the_next_bytes() -> None:
    windows = TextWindows(b"abcdefgh", context=3)
    assert len(windows) == 2
    assert [bytes(x.tolist()) for x in windows[1]] == [b"def", b"efg"]
    with pytest.raises(ValueError, match="too short"):
        TextWindows(b"abc", context=3)


def test_gpt_sees_no_byte_before_its_turn() -> None:
    torch.manual_seed(0)
    model = Gpt(GptShape(context=8, layers=2, width=16, heads=2))
    text = torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 9, 4]])
    before, after = model(text), model(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2:], after[:, 2:])


def test_gpt_knows_how_far_back_a_byte_was() -> None:
    torch.manual_seed(0)
    model = Gpt(GptShape(context=8, layers=1, width=16, heads=2))
    near, far = model(torch.tensor([[7, 5, 1, 1]])), model(torch.tensor([[5, 7, 1, 1]]))
    assert not torch.allclose(near[:, -1], far[:, -1])


def test_gpt_generates_the_same_text_from_the_same_seed() -> None:
    torch.manual_seed(0)
    model = Gpt(GptShape(context=4, layers=1, width=16, heads=2))
    texts = [model.generate(b"ab", 10, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith(b"ab") and len(text) == 12 for text in texts)
    with pytest.raises(ValueError, match="multiple of 2 x heads"):
        GptShape(context=4, layers=1, width=16, heads=3)


def test_the_loss_curve_is_a_png(tmp_path: Path) -> None:
    records = [{"event": "train", "step": s, "loss": 1 / s} for s in (1, 2, 3, 2)]
    path = tmp_path / "new" / "loss.png"
    draw_loss_curve(records, path, "a title")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (960, 540)
