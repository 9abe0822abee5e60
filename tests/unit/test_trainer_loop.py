"""The loop in one process: batches, clipping, evaluation, early stop, checkpoints, resume."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from fastgpu_comm import Trainer
from fastgpu_comm.codecs import Codec
from fastgpu_comm.trainer import (
    CheckpointError,
    Datasets,
    Outcome,
    TrainerSettings,
    classification,
)
from fastgpu_comm.trainer.data import BatchOrder
from fastgpu_comm.trainer.metrics import read


class InterruptionError(Exception):
    """Stands for any error that interrupts a run."""


def samples(count: int = 22) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=generator)
    return list(zip(inputs, (inputs[:, 0] > 0).long(), strict=True))


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2))


def trainer(
    folder: Path | None = None,
    model: nn.Module | None = None,
    objective: Any = classification,
    **settings: Any,
) -> Trainer:
    model = model or network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    known = {"steps": 12, "batch_size": 8, "log_every": 1, "progress": False, "tensorboard": False}
    return Trainer(
        model,
        optimizer,
        Datasets(samples(), samples(9)),
        objective,
        TrainerSettings(**{**known, "folder": folder, **settings}),
        CosineAnnealingLR(optimizer, 12),
    )


def losses(folder: Path) -> dict[int, Any]:
    """Returns the training losses by step. If a step was run twice, the later one counts."""
    records = read(folder / "metrics.jsonl")
    return {r["step"]: r["loss"] for r in records if r["event"] == "train"}


def weights(of: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in of.module.parameters()]


def interrupted_at(step: int) -> Any:
    """An objective that works for so many calls and then no more."""
    calls = 0

    def objective(model: nn.Module, batch: Any) -> Outcome:
        nonlocal calls
        calls += model.training
        if calls > step:
            raise InterruptionError
        return classification(model, batch)

    return objective


def test_training_learns_and_says_what_it_did(tmp_path: Path) -> None:
    result = trainer(tmp_path, evaluate_every=4).fit()
    assert (result.step, result.samples, result.predictions) == (12, 88, 88)
    assert result.loss is not None
    assert result.loss < 0.3 < losses(tmp_path)[1]
    evaluations = [r for r in read(tmp_path / "metrics.jsonl") if r["event"] == "evaluation"]
    assert [r["step"] for r in evaluations] == [4, 8, 12]
    assert evaluations[-1]["loss"] == result.evaluation_loss
    assert evaluations[-1]["samples"] == 9
    assert not result.stopped_early
    assert result.waited_s is None


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_takes_the_steps_of_a_big_batch(tmp_path: Path, accumulation: int) -> None:
    whole, pieces = trainer(tmp_path / "a"), trainer(tmp_path / "b", accumulation=accumulation)
    whole.fit()
    pieces.fit()
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-5)
    for one, other in zip(weights(whole), weights(pieces), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_steps_are_those_of_a_plain_loop_small_last_batches_included(tmp_path: Path) -> None:
    """22 samples in batches of 8, so that every third has 6: in micro-batches of 2, 2, 1 and 1."""
    run = trainer(tmp_path, accumulation=4)
    run.fit()
    plain = network()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.05)
    scheduler = CosineAnnealingLR(optimizer, 12)
    order = BatchOrder(22, 8, seed=0)
    expected = {}
    for step in range(1, 13):
        inputs, labels = zip(*(samples()[index] for index in order.next()), strict=True)
        loss = nn.functional.cross_entropy(plain(torch.stack(inputs)), torch.stack(labels))
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        expected[step] = loss.item()
    assert losses(tmp_path) == pytest.approx(expected, rel=1e-5)
    for mine, theirs in zip(weights(run), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_step() -> None:
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    settings = TrainerSettings(steps=1, batch_size=8, clip_norm=1e-3, progress=False)

    def steep(model: nn.Module, batch: Any) -> Outcome:
        return Outcome(classification(model, batch).loss * 1e4)

    Trainer(model, optimizer, Datasets(samples()), steep, settings).fit()
    moved = [(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_patience_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "evaluate_every": 2,
        "patience": 2,
        "min_improvement": 10.0,
        "steps": 50,
    }
    result = trainer(tmp_path, checkpoint_every=50, **settings).fit()
    assert (result.step, result.stopped_early) == (6, True)  # the first always counts
    assert losses(tmp_path).keys() == set(range(1, 7))
    again = trainer(tmp_path, checkpoint_every=50, resume=True, **settings).fit()
    assert (again.step, again.stopped_early, again.loss) == (6, True, None)


def test_an_optimizer_that_needs_a_closure_is_refused() -> None:
    model = network()
    settings = TrainerSettings(steps=1, batch_size=8, progress=False)
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match="The optimizer is LBFGS"):
        Trainer(model, optimizer, Datasets(samples()), classification, settings)


def test_an_adaptive_optimizer_for_one_bit_is_refused_unless_the_codec_insists() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())

    def trainer(codec: str | Codec) -> Trainer:
        settings = TrainerSettings(steps=1, batch_size=8, codec=codec, progress=False)
        return Trainer(model, optimizer, Datasets(samples()), classification, settings)

    with pytest.raises(ValueError, match="codec 1bit does not work with Adam"):
        trainer("1bit")
    trainer(Codec("1bit", any_optimizer=True)).fit()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": 1}, "model must be of type Module, not int"),
        ({"optimizer": torch.optim.SGD}, "optimizer must be of type Optimizer, not type"),
        ({"datasets": samples()}, "datasets must be of type Datasets, not list"),
        ({"settings": {"steps": 1}}, "settings must be of type TrainerSettings, not dict"),
        ({"model": nn.Identity()}, "The model has no parameters to train"),
    ],
)
def test_wrong_arguments_are_refused_in_words(wrong: dict[str, Any], said: str) -> None:
    model = network()
    arguments: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
        "datasets": Datasets(samples()),
        "objective": classification,
        "settings": TrainerSettings(steps=1, batch_size=8, progress=False),
    }
    with pytest.raises((TypeError, ValueError), match=said):
        Trainer(**{**arguments, **wrong})


def test_a_plateau_scheduler_steps_after_evaluations() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = ReduceLROnPlateau(
        optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
    )
    settings = TrainerSettings(steps=6, batch_size=8, evaluate_every=2, progress=False)
    Trainer(
        model, optimizer, Datasets(samples(), samples()), classification, settings, scheduler
    ).fit()
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    tmp_path: Path, precision: str
) -> None:
    settings = {"precision": precision, "checkpoint_every": 5, "evaluate_every": 3}
    through = trainer(tmp_path / "a", network(dropout=0.5), **settings)
    through.fit()
    stopped = trainer(tmp_path / "b", network(dropout=0.5), interrupted_at(8), **settings)
    with pytest.raises(InterruptionError):
        stopped.fit()
    torch.manual_seed(99)
    resumed = trainer(tmp_path / "b", network(dropout=0.5), resume=True, **settings)
    result = resumed.fit()
    assert result.samples == 6 + 8 + 8 + 6 + 8 + 8 + 6
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    for one, other in zip(weights(through), weights(resumed), strict=True):
        assert torch.equal(one, other)


def test_no_record_spans_a_checkpoint(tmp_path: Path) -> None:
    trainer(tmp_path, log_every=10, checkpoint_every=4).fit()
    records = [r for r in read(tmp_path / "metrics.jsonl") if r["event"] == "train"]
    assert [r["step"] for r in records] == [4, 8, 10, 12]
    assert [r["samples"] for r in records] == [30, 30, 14, 14]


def test_a_step_left_out_for_an_overflow_does_not_move_the_schedule() -> None:
    calls = 0

    def overflows_twice(model: nn.Module, batch: Any) -> Outcome:
        nonlocal calls
        calls += 1
        return Outcome(classification(model, batch).loss * (math.inf if calls < 3 else 1.0))

    run = trainer(objective=overflows_twice, steps=3, precision="fp16")
    run.fit()
    assert run._scheduler is not None
    assert run._scheduler.last_epoch == 1


def test_after_damage_the_checkpoint_before_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, checkpoint_every=4).fit()
    expected = losses(tmp_path)
    newest = tmp_path / "checkpoints" / "step-000000000012.ckpt"
    newest.write_bytes(newest.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        resumed = trainer(tmp_path, checkpoint_every=4, resume=True)
        assert resumed.fit().samples == 6 + 8 + 8 + 6
    assert "cut off" in caplog.text
    assert "step-000000000012.ckpt.damaged" in caplog.text
    assert losses(tmp_path) == expected


def test_a_new_run_does_not_write_into_the_checkpoints_of_another(tmp_path: Path) -> None:
    trainer(tmp_path, checkpoint_every=4).fit()
    with pytest.raises(CheckpointError, match=r"from an earlier run\. Resume that run"):
        trainer(tmp_path, checkpoint_every=4).fit()


def test_a_checkpoint_of_another_model_or_order_does_not_fit(tmp_path: Path) -> None:
    trainer(tmp_path, checkpoint_every=4).fit()
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0), nn.Linear(5, 2))
    with pytest.raises(CheckpointError, match=r"step 12 does not match [^$]*size mismatch"):
        trainer(tmp_path, model, checkpoint_every=4, resume=True).fit()
    with pytest.raises(CheckpointError, match="written with batch_size 8, this run has 4"):
        trainer(tmp_path, checkpoint_every=4, resume=True, batch_size=4).fit()
    with pytest.raises(CheckpointError, match="written without a scaler"):
        trainer(tmp_path, checkpoint_every=4, resume=True, precision="fp16").fit()


def test_evaluation_leaves_the_mode_alone_and_needs_data() -> None:
    run = trainer(model=network(dropout=0.9))
    run.module.train()
    assert run.evaluate() == run.evaluate()
    assert run.module.training
    settings = TrainerSettings(steps=1, batch_size=1, progress=False)
    optimizer = torch.optim.SGD(run.module.parameters(), lr=1.0)
    bare = Trainer(run.module, optimizer, Datasets(samples()), classification, settings)
    with pytest.raises(ValueError, match="no evaluation dataset"):
        bare.evaluate()


def test_a_loss_that_is_not_a_number_is_recorded_as_such(tmp_path: Path) -> None:
    def hopeless(model: nn.Module, batch: Any) -> Outcome:
        return Outcome(classification(model, batch).loss * math.nan)

    trainer(tmp_path, objective=hopeless, steps=1).fit()
    assert losses(tmp_path) == {1: "nan"}
