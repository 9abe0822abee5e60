"""Trains with Ray Train on two CPU workers.

    python ray_train.py fastgpu

Without a backend Ray takes gloo; `FASTGPU_REPLACE_GLOO=1` makes that fastgpu, if the workers have
the variable too.
"""

import sys
import tempfile

import ray
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from torch import nn


def train() -> None:
    """Learns y = sin(x) on one worker; every worker draws its own batches."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    model = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    for _ in range(80):
        x = torch.rand(32, 1, generator=generator) * 6 - 3
        loss = nn.functional.mse_loss(model(x), x.sin())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = loss.detach()
    dist.all_reduce(mean)
    metrics = {"loss": mean.item() / 2, "backend": dist.get_backend_config()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), f"{folder}/model.pt")
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def main(backend: str | None = None) -> None:
    """Runs the training on a Ray instance of its own."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ray.train.torch.TorchTrainer(
            train,
            torch_config=ray.train.torch.TorchConfig(backend=backend),
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=folder),
        )
        metrics = trainer.fit().metrics
    print(f"loss {metrics['loss']:.9g} on {metrics['backend']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
