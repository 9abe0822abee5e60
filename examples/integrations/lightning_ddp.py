"""Trains with Lightning's DDP strategy on CPUs.

    torchrun --nproc-per-node 2 lightning_ddp.py fastgpu

Without a backend Lightning takes gloo; `FASTGPU_REPLACE_GLOO=1` makes that fastgpu.
"""

import sys

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Sine(lightning.LightningModule):
    """Learns y = sin(x)."""

    def __init__(self) -> None:
        """Creates the layers."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

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
        strategy=DDPStrategy(process_group_backend=backend),
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
