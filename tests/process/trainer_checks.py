"""Cases of the trainer on three ranks, which write down what they saw. Run by test_trainer.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR

import fastgpu_comm
from fastgpu_comm import Trainer
from fastgpu_comm.trainer import Datasets, Outcome, TrainerSettings, TrainResult, classification

STEPS = 9
SAMPLES = 22
PADDING = -100
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 8,
    "log_every": 1,
    "evaluate_every": 3,
    "clip_norm": 1.0,
    "progress": False,
    "tensorboard": False,
}


class InterruptionError(Exception):
    """Stands for any error that interrupts a run."""


def samples(count: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs, and whether their first number is above zero."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=generator)
    return list(zip(inputs, (inputs[:, 0] > 0).long(), strict=True))


def network(dropout: float = 0.0, width: int = 16) -> nn.Module:
    """The same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Dropout(dropout),
        nn.Linear(width, 2),
    )  # fmt: skip


def train(
    model: nn.Module,
    folder: Path | None,
    objective: Any = classification,
    datasets: Datasets | None = None,
    **settings: Any,
) -> TrainResult:
    """Trains for a few steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    return Trainer(
        model,
        optimizer,
        datasets or Datasets(samples(SAMPLES), samples(7)),
        objective,
        TrainerSettings(**{**SETTINGS, "folder": folder, **settings}),
        CosineAnnealingLR(optimizer, STEPS),
    ).fit()


class CountingDdp(DistributedDataParallel):
    """Counts the micro-batches whose gradients stay on the rank."""

    unsynchronised = 0

    def no_sync(self) -> Any:
        """As in the base class."""
        self.unsynchronised += 1
        return super().no_sync()


def two_of_three_ranks(folder: Path) -> dict[str, Any]:
    """A model wrapped by hand, over a group that not all ranks are in."""
    group = dist.new_group([0, 1])
    if dist.get_rank() == 2:
        return {}
    model = CountingDdp(network(), process_group=group)
    result = train(model, folder, accumulation=2)
    return {
        "unsynchronised": model.unsynchronised,
        "samples": result.samples,
        "evaluation_loss": result.evaluation_loss,
        "bytes_sent": result.bytes_sent,
        "bytes_counted": result.bytes_counted,
        "in_flight_s": result.in_flight_s,
        "waited_s": result.waited_s,
        "train_s": result.train_s,
        "weights": [p.tolist() for p in model.module.parameters()],
    }


def hook_of_its_own(folder: Path) -> dict[str, Any]:
    """A model whose gradients already go another way."""
    model, calls = DistributedDataParallel(network()), 0
    group = model.process_group  # the hook must not keep the model, which keeps the hook

    def count_and_reduce(bucket: Any) -> Any:
        nonlocal calls
        calls += 1
        return default_hooks.allreduce_hook(group, bucket)

    model.register_comm_hook(None, lambda _, bucket: count_and_reduce(bucket))
    result = train(model, folder, steps=3)
    seen = {"calls": calls, "in_flight_s": result.in_flight_s, "bytes_sent": result.bytes_sent}
    return {**seen, "encoded_bytes": result.encoded_bytes}


def uneven_ranks(folder: Path) -> dict[str, Any]:
    """Batches of 8 and 6 over three ranks."""
    model = network()
    train(model, folder)
    return {"seed": torch.initial_seed(), "weights": [p.tolist() for p in model.parameters()]}


def ranks_without_samples(folder: Path) -> dict[str, Any]:
    """Batches of two over three ranks: one rank only helps to add up."""
    model = network()
    result = train(model, folder, batch_size=2)
    return {"samples": result.samples, "weights": [p.tolist() for p in model.parameters()]}


def texts(count: int) -> list[tuple[Tensor, Tensor]]:
    """Samples of four labels, of which one to four are no padding."""
    parts = samples(4 * count)
    texts = []
    for index in range(count):
        inputs, classes = zip(*parts[4 * index : 4 * index + 4], strict=True)
        labels = torch.stack(classes)
        labels[1 + index % 4 :] = PADDING
        texts.append((torch.stack(inputs), labels))
    return texts


def mean_without_padding(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
    """The mean over the labels that are no padding."""
    inputs, labels = batch
    scores, labels = model(inputs).flatten(0, 1), labels.flatten()
    return Outcome(nn.functional.cross_entropy(scores, labels, ignore_index=PADDING))


def train_weighted(model: nn.Module, folder: Path, **settings: Any) -> TrainResult:
    """Trains on texts; a batch has the weight of its labels that are no padding."""
    datasets = Datasets(
        texts(SAMPLES), texts(7), weigh=lambda batch: int((batch[1] != PADDING).sum())
    )
    return train(model, folder, mean_without_padding, datasets, **settings)


def weighted(folder: Path) -> dict[str, Any]:
    """Ranks with different numbers of labels; some have no sample at all."""
    model = network()
    try:
        train_weighted(model, folder, batch_size=7)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        train_weighted(wrapped, folder)
    except ValueError as error:
        return {"error": str(error), "weights": [p.tolist() for p in model.parameters()]}
    return {}


def compressed(folder: Path) -> dict[str, Any]:
    """Large matrices, as int8 where the backend has codecs."""
    codec = "int8" if dist.get_backend() == "fastgpu" else None
    result = train(network(width=300), folder, codec=codec, steps=4, accumulation=2)
    return {"gradient_bytes": result.gradient_bytes, "encoded_bytes": result.encoded_bytes}


def resumed_with_codec(folder: Path) -> dict[str, Any]:
    """The same with gradients that keep residuals, if the backend has codecs."""
    return resumed(folder, "int4" if dist.get_backend() == "fastgpu" else None)


def resumed(folder: Path, codec: str | None = None) -> dict[str, Any]:
    """A run that never stopped, and one that was interrupted and taken up again.

    The model is large enough for several of DDP's buckets, which it regroups after a pass.
    """
    settings: dict[str, Any] = {"checkpoint_every": 4, "steps": 7}

    def fresh() -> nn.Module:
        module = network(dropout=0.5, width=300)
        return fastgpu_comm.DistributedDataParallel(module, bucket_cap_mb=0.1, codec=codec)

    through, calls = fresh(), 0
    train(through, folder / "through", **settings)

    def objective(model: nn.Module, batch: Any) -> Outcome:
        nonlocal calls
        calls += model.training
        if calls > 6:
            raise InterruptionError
        return classification(model, batch)

    try:
        train(fresh(), folder / "stopped", objective, **settings)
    except InterruptionError:
        torch.manual_seed(99)
    again = fresh()
    train(again, folder / "stopped", resume=True, **settings)
    same = [
        torch.equal(a, b) for a, b in zip(through.parameters(), again.parameters(), strict=True)
    ]
    return {"same": same}


def damaged(folder: Path) -> dict[str, Any]:
    """The newest checkpoint is cut off, then the only other one too."""
    folder = folder / "shared"
    train(network(), folder, checkpoint_every=4)
    newest = folder / "checkpoints" / f"step-{STEPS:012d}.ckpt"
    older = folder / "checkpoints" / "step-000000000008.ckpt"
    if dist.get_rank() == 0:
        newest.write_bytes(newest.read_bytes()[:1000])
    result = train(network(), folder, checkpoint_every=4, resume=True)
    if dist.get_rank() == 0:
        for path in (newest, older):
            path.write_bytes(path.read_bytes()[:1000])
    seen = {"samples": result.samples}
    try:
        train(network(), folder, resume=True)
    except Exception as error:
        return {**seen, "error": f"{type(error).__name__}: {error}"}
    return seen


def early_stop(folder: Path) -> dict[str, Any]:
    """Nothing counts as an improvement after the first evaluation."""
    result = train(network(), folder, patience=1, min_improvement=10.0)
    return {"step": result.step, "stopped_early": result.stopped_early}


def disagreement(folder: Path) -> dict[str, Any]:
    """Rank 1 was given another batch size."""
    try:
        train(network(), folder, batch_size=8 + (dist.get_rank() == 1))
    except ValueError as error:
        return {"error": str(error)}
    return {}


CASES = (
    two_of_three_ranks, hook_of_its_own, uneven_ranks, ranks_without_samples, resumed,
    resumed_with_codec, weighted, compressed, damaged, early_stop, disagreement,
)  # fmt: skip


def run_cases(folder: Path) -> None:
    """Runs the cases, one after the other."""
    for case in CASES:
        seen = case(folder / case.__name__)
        path = folder / f"{case.__name__}-{dist.get_rank()}.json"
        path.write_text(json.dumps(seen), encoding="utf-8")
        dist.barrier()
