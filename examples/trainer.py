"""Trains a small classifier with fastgpu_comm.Trainer; saves it in runs/example-trainer.

    python examples/trainer.py                                  one process
    torchrun --nproc-per-node 2 examples/trainer.py             two, over fastgpu
    torchrun --nproc-per-node 2 examples/trainer.py gloo        two, over another backend

The processes share each batch, so the steps are the same for any number of processes. A run that
was stopped continues at the next start, from its checkpoints. A completed run removes the
checkpoints, and the next run starts from step 0.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastgpu_comm
from fastgpu_comm.trainer import Datasets, TrainerSettings, classification


def rings(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Returns points of the plane, each with the number of its ring around the origin."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * 2
    return list(zip(points, points.norm(dim=1).long().clamp(max=4), strict=True))


def main(backend: str) -> None:
    """Trains as one rank of torchrun's job, or in a single process."""
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    folder = Path("runs") / "example-trainer"
    settings = TrainerSettings(
        steps=600,
        batch_size=64,
        evaluate_every=100,
        patience=3,
        folder=folder,
        checkpoint_every=200,
        resume=True,
        tensorboard=False,
    )
    datasets = Datasets(rings(4000, seed=1), rings(500, seed=2))
    result = fastgpu_comm.Trainer(model, optimizer, datasets, classification, settings).fit()
    if not dist.is_initialized() or dist.get_rank() == 0:
        if result.loss is None:
            print("the last run had done all steps; the next start trains anew")
        else:
            print(f"step {result.step}, evaluation loss {result.evaluation_loss:.4f}")
        torch.save(model.state_dict(), folder / "model.pt")
        shutil.rmtree(folder / "checkpoints")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["fastgpu"])
