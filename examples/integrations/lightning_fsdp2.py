"""Trains with Lightning's ModelParallelStrategy on CPUs, sharded by FSDP2.

    torchrun --nproc-per-node 2 lightning_fsdp2.py fastgpu

Without a backend Lightning takes gloo; `FASTGPU_REPLACE_GLOO=1` makes that fastgpu.
"""

import sys

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset


class Sine(lightning.LightningModule):
    """Learns y = sin(x)."""

    def __init__(self) -> None:
        """Creates the layers."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def configure_model(self) -> None:
        """Shards the layers over the ranks."""
        mesh = self.device_mesh["data_parallel"]
        for layer in (self.layers[0], self.layers[2], self.layers):
            fully_shard(layer, mesh=mesh)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Returns the loss of this rank's batch; logs its mean over the ranks."""
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.layers(inputs), targets)
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main(backend: str | None = None) -> None:
    """Trains for 5 epochs."""
    lightning.seed_everything(0)
    x = torch.rand(512, 1) * 6 - 3
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        # The default is one data-parallel part, and all ranks of a host tensor-parallel.
        strategy=ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, process_group_backend=backend
        ),
        max_epochs=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Sine(), DataLoader(TensorDataset(x, x.sin()), batch_size=32, shuffle=True))
    if trainer.is_global_zero:
        loss = trainer.callback_metrics["loss"].item()
        print(f"loss {loss:.9g} on {dist.get_backend_config()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
