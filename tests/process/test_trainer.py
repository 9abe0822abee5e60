"""The trainer over several ranks, against the same training in this process alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.process import trainer_checks as checks
from tests.process.ranks import Ranks, Setting

from fastgpu_comm.trainer.metrics import read

SECONDS = 250.0  # for all cases, on a busy machine


class Job:
    """The notes of three ranks, case by case."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend = backend
        self.folder = folder

    def seen(self, case: str) -> list[dict[str, Any]]:
        paths = [self.folder / f"{case}-{rank}.json" for rank in range(3)]
        return [json.loads(path.read_text()) for path in paths]

    def losses(self, case: str, event: str = "train") -> dict[int, float]:
        return losses(self.folder / case, event)


def losses(folder: Path, event: str = "train") -> dict[int, float]:
    """Returns the losses by step. If a step was run twice, the later one counts."""
    return {r["step"]: r["loss"] for r in read(folder / "metrics.jsonl") if r["event"] == event}


@pytest.fixture(scope="module", params=["fastgpu", "gloo"])
def job(
    ranks: Ranks, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Job:
    folder = tmp_path_factory.mktemp(request.param)
    setting = Setting(3, backend=request.param)
    ranks.run(checks.run_cases, setting, folder, seconds=SECONDS)
    return Job(request.param, folder)


def assert_same_training(job: Job, case: str, alone: Path, model: torch.nn.Module) -> None:
    """Same losses at every step and the same weights on every rank, to rounding."""
    for event in ("train", "evaluation"):
        expected = losses(alone, event)
        assert len(expected) >= 3
        assert job.losses(case, event) == pytest.approx(expected, rel=1e-4)
    seen = [one["weights"] for one in job.seen(case) if one]
    assert all(one == seen[0] for one in seen)
    for weight, parameter in zip(seen[0], model.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(weight), parameter.detach(), rtol=1e-3, atol=1e-4)


def test_two_ranks_train_as_one_process_does(job: Job, tmp_path: Path) -> None:
    model = checks.network()
    result = checks.train(model, tmp_path)
    assert_same_training(job, "two_of_three_ranks", tmp_path, model)
    for seen in job.seen("two_of_three_ranks")[:2]:
        assert seen["samples"] == result.samples
        assert seen["evaluation_loss"] == pytest.approx(result.evaluation_loss, rel=1e-4)
        assert seen["unsynchronised"] == checks.STEPS  # the first of two micro-batches


def test_the_gradients_way_is_timed_and_counted(job: Job) -> None:
    gradient_bytes = sum(4 * p.numel() for p in checks.network().parameters())
    for seen in job.seen("two_of_three_ranks")[:2]:
        assert 0 < seen["waited_s"] <= seen["in_flight_s"] * (1 + 1e-9)
        assert seen["in_flight_s"] < seen["train_s"]
        assert seen["bytes_counted"] == (job.backend == "fastgpu")
        more_bytes = seen["bytes_sent"] - checks.STEPS * gradient_bytes
        assert 0 <= more_bytes < (5000 if seen["bytes_counted"] else 1)  # the metrics' sums
    (record, *_) = read(job.folder / "two_of_three_ranks" / "metrics.jsonl")
    assert record["communication_share"] == pytest.approx(
        record["communication_waited_s"] / record["train_s"]
    )


def test_a_model_with_a_hook_of_its_own_keeps_it_and_is_not_timed(job: Job) -> None:
    for seen in job.seen("hook_of_its_own"):
        assert seen["calls"] >= 3
        assert seen["in_flight_s"] is None
        assert seen["encoded_bytes"] is None
        assert seen["bytes_sent"] > 0
    (record, *_) = read(job.folder / "hook_of_its_own" / "metrics.jsonl")
    assert "communication_share" not in record


@pytest.mark.parametrize(("case", "batch"), [("uneven_ranks", 8), ("ranks_without_samples", 2)])
def test_any_number_of_samples_a_rank_takes_the_same_steps(
    job: Job, case: str, batch: int, tmp_path: Path
) -> None:
    model = checks.network()
    checks.train(model, tmp_path, batch_size=batch)
    assert_same_training(job, case, tmp_path, model)


def test_ranks_have_the_weight_of_their_labels(job: Job, tmp_path: Path) -> None:
    if job.backend == "gloo":
        for seen in job.seen("weighted"):
            assert "weighted need a process group of fastgpu" in seen["error"]
        return
    model = checks.network()
    checks.train_weighted(model, tmp_path, batch_size=7, accumulation=3)
    assert_same_training(job, "weighted", tmp_path, model)
    for seen in job.seen("weighted"):
        assert "Datasets.weigh is for a model that the trainer wraps" in seen["error"]


def test_bytes_saved_and_the_exposed_share_are_measured(job: Job) -> None:
    count = 6 * 300 + 300 + 300 * 300 + 300 + 300 * 2 + 2
    records = [
        r for r in read(job.folder / "compressed" / "metrics.jsonl") if r["event"] == "train"
    ]
    assert len(records) == 4
    matrix = 300 * 300
    saved = 4 * matrix - (matrix + 2 * -(-matrix // 64)) if job.backend == "fastgpu" else 0
    for record in records:
        assert record["gradient_bytes"] == 4 * count
        assert record["bytes_saved"] == record["gradient_bytes"] - record["encoded_bytes"] == saved
        waited, flight = (record[f"communication_{key}_s"] for key in ("waited", "in_flight"))
        assert 0 < waited <= flight
        assert record["communication_share"] == waited / record["train_s"]
    for seen in job.seen("compressed"):
        assert seen["gradient_bytes"] - seen["encoded_bytes"] == 4 * saved


def test_each_rank_has_random_numbers_of_its_own(job: Job) -> None:
    assert [seen["seed"] for seen in job.seen("uneven_ranks")] == [0, 1, 2]


@pytest.mark.parametrize("case", ["resumed", "resumed_with_codec"])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(job: Job, case: str) -> None:
    through = losses(job.folder / case / "through")
    assert through.keys() == set(range(1, 8))
    assert losses(job.folder / case / "stopped") == through
    (record, *_) = read(job.folder / case / "through" / "metrics.jsonl")
    assert 0 < record["communication_share"] < 1
    for seen in job.seen(case):
        assert len(seen["same"]) == 6
        assert all(seen["same"])


def test_damaged_checkpoints_are_refused_on_every_rank(job: Job) -> None:
    for seen in job.seen("damaged"):
        assert seen["samples"] == 6  # step 9 again, the small last batch of an epoch
        assert seen["error"].startswith("CheckpointError: ")
        assert "cut off" in seen["error"]
        assert "No good checkpoint is left" in seen["error"]


def test_ranks_stop_early_together(job: Job) -> None:
    assert job.seen("early_stop") == [{"step": 6, "stopped_early": True}] * 3


def test_ranks_that_were_told_different_things_say_so(job: Job) -> None:
    for seen in job.seen("disagreement"):
        assert "TrainerSettings.batch_size is 8 on rank 0 and 9 on rank 1" in seen["error"]
