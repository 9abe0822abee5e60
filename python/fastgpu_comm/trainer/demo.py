"""A rank of `fastgpu-comm train`: trains a byte-level GPT on Python's own source files."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from pathlib import Path

import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Subset

from fastgpu_comm.trainer import metrics
from fastgpu_comm.trainer.curve import draw_loss_curve
from fastgpu_comm.trainer.data import Datasets
from fastgpu_comm.trainer.gpt import Gpt, GptShape
from fastgpu_comm.trainer.loop import Trainer
from fastgpu_comm.trainer.objective import classification
from fastgpu_comm.trainer.recorder import TrainResult
from fastgpu_comm.trainer.settings import TrainerSettings
from fastgpu_comm.trainer.text import TextWindows, standard_library_text

_TEXT_BYTES = 4_000_000
_VALIDATION_SAMPLES = 256
_SAMPLE_START = b"def "
_SAMPLE_BYTES = 400
_SAMPLE_TEMPERATURE = 0.7


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """The command's options: the backend, the device type, the model and how to train it.

    `weighted`: ranks have the weight of their tokens, not of their samples.
    """

    backend: str
    device: str
    learning_rate: float
    shape: GptShape
    settings: TrainerSettings
    weighted: bool = False


def run(options: DemoOptions) -> None:
    """Trains as one rank of the job that the environment describes; rank 0 prints a report.

    After an error the process group is not destroyed: destroying it could block, and the process is
    about to exit with the error.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _take_device(options.device, local_rank)
    dist.init_process_group(options.backend)
    _train(options, device)
    dist.destroy_process_group()


def _train(options: DemoOptions, device: torch.device) -> None:
    settings, shape = options.settings, options.shape
    first = dist.get_rank() == 0
    train, validation = standard_library_text(_TEXT_BYTES)
    held_out = TextWindows(validation, shape.context)
    spread = range(0, len(held_out), max(1, len(held_out) // _VALIDATION_SAMPLES))
    datasets = Datasets(
        TextWindows(train, shape.context),
        Subset(held_out, spread),
        weigh=_tokens if options.weighted else None,
    )
    torch.manual_seed(settings.seed)
    model = Gpt(shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, betas=(0.9, 0.98))
    scheduler = LambdaLR(optimizer, WarmupThenCosine(settings.steps))
    if first:
        _announce(options, device, model, len(train), len(validation))
    trainer = Trainer(model, optimizer, datasets, classification, settings, scheduler)
    result = trainer.fit()
    if first:
        _report(options, model, result)


def _tokens(batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    return batch[1].numel()


class WarmupThenCosine:
    """A factor of the learning rate: a linear warm-up, then a cosine down to a tenth."""

    def __init__(self, steps: int) -> None:
        """Takes the steps of the whole run; a twentieth of them are the warm-up."""
        self._steps = steps
        self._warmup = max(1, steps // 20)

    def __call__(self, step: int) -> float:
        """Returns the factor of step `step`, counted from 0."""
        if step < self._warmup:
            return (step + 1) / self._warmup
        progress = min(1.0, (step - self._warmup) / max(1, self._steps - self._warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _take_device(kind: str, local_rank: int) -> torch.device:
    """Returns this rank's device.

    Unless OMP_NUM_THREADS says how many threads to use, torch gets the rank's share of the cores.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if kind != "cuda":
        return torch.device(kind)
    if not torch.cuda.is_available():
        raise ValueError("--device is cuda, but torch finds no GPU. Use --device cpu.")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _announce(
    options: DemoOptions, device: torch.device, model: Gpt, train_bytes: int, validation_bytes: int
) -> None:
    settings, shape = options.settings, options.shape
    world = dist.get_world_size()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"ranks      {world} over {options.backend}, each on {device.type} with "
        f"{torch.get_num_threads()} thread(s)"
        f"{f', gradients as {settings.codec}' if settings.codec else ''}"
        f"{', weighted by tokens' if options.weighted else ''}\n"
        f"text       the library of Python {platform.python_version()}: {train_bytes / 1e6:.1f} MB "
        f"for training, {validation_bytes / 1e6:.2f} MB of other files for validation\n"
        f"model      GPT over bytes: {shape.layers} layers, width {shape.width}, context "
        f"{shape.context}, {count:,} parameters ({settings.precision})\n"
        f"training   {settings.steps} steps of {settings.batch_size} x {shape.context} bytes over "
        f"all ranks; guessing gives a loss of {math.log(256):.2f} nats per byte\n"
        f"output     {settings.folder}",
        flush=True,
    )


def _report(options: DemoOptions, model: Gpt, result: TrainResult) -> None:
    folder = options.settings.folder or Path()
    curve = str(folder / "loss.png")
    title = f"{options.backend}, {dist.get_world_size()} ranks"
    try:
        draw_loss_curve(metrics.read(folder / "metrics.jsonl"), Path(curve), title)
    except ModuleNotFoundError as error:
        curve = f"not drawn: {error}"
    model.eval()
    sample = model.generate(
        _SAMPLE_START, _SAMPLE_BYTES, _SAMPLE_TEMPERATURE, options.settings.seed
    ).decode(errors="replace")
    print(f"\nThe model writes:\n{'-' * 72}\n{sample}\n{'-' * 72}\n")
    print("\n".join(_summary(result)))
    print(f"loss curve      {curve}", flush=True)


def _summary(result: TrainResult) -> list[str]:
    if result.loss is None:
        return [f"steps           {result.step}, all done in an earlier run"]
    lines = [f"steps           {result.step} in {result.train_s:.1f} s"]
    if result.evaluation_loss is not None:
        lines.append(
            f"loss            {result.loss:.3f} in training, {result.evaluation_loss:.3f} in "
            "validation (nats per byte)"
        )
    lines.append(f"throughput      {result.predictions / result.train_s:,.0f} tokens/s (bytes)")
    how = "counted by the backend" if result.bytes_counted else "computed from gradient sizes"
    lines.append(f"bytes sent      {result.bytes_sent / 1e6:,.1f} MB by rank 0, {how}")
    whole, encoded = result.gradient_bytes, result.encoded_bytes
    if whole and encoded:
        saved = "none, gradients travel uncompressed"
        if encoded < whole:
            saved = (
                f"{1 - encoded / whole:.1%}: {whole / 1e6:,.1f} MB of gradients travel as "
                f"{encoded / 1e6:,.1f} MB"
            )
        lines.append(f"bytes saved     {saved}")
    if result.in_flight_s is not None and result.waited_s is not None:
        lines.append(
            f"communication   {result.in_flight_s:.2f} s in flight on rank 0, of which "
            f"{result.waited_s:.2f} s exposed: {result.waited_s / result.train_s:.1%} of the "
            "training time"
        )
    else:
        lines.append(
            "communication   not timed: on a GPU, with a communication hook, or where codec auto "
            "compresses nothing"
        )
    return lines
