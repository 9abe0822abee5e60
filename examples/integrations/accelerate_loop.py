"""Trains with Hugging Face Accelerate on CPUs.

    FASTGPU_REPLACE_GLOO=1 torchrun --nproc-per-node 2 accelerate_loop.py

Accelerate accepts only backends that it knows, so fastgpu takes gloo's place. Without `cpu=True`
on a machine that has no GPU, each process trains on its own, and nothing says so.
"""

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(0)
x = torch.rand(512, 1) * 6 - 3
loader = DataLoader(TensorDataset(x, x.sin()), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

accelerator = Accelerator(cpu=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for _ in range(5):
    for inputs, targets in loader:
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
mean = accelerator.reduce(loss.detach(), "mean")
accelerator.print(f"loss {mean.item():.9g} on {dist.get_backend_config()}")
accelerator.end_training()
