"""The ways to reduce gradients that bench/ddp.py compares, by name: fastgpu's and gloo's."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

import fastgpu_comm

COMPUTE = "compute"
AUTO = "fastgpu auto"
TIMEOUT = datetime.timedelta(seconds=300)


def fastgpu(module: nn.Module, codec: str | None, views: bool = False) -> nn.Module:
    """Wraps a module in fastgpu's DistributedDataParallel."""
    return fastgpu_comm.DistributedDataParallel(
        module,
        process_group=dist.new_group(backend="fastgpu", timeout=TIMEOUT),
        gradient_as_bucket_view=views,
        codec=codec,
    )


def power_sgd(module: nn.Module) -> nn.Module:
    """Wraps a module in fastgpu's DistributedDataParallel, with the hook of this package."""
    model = fastgpu(module, None)
    assert isinstance(model, fastgpu_comm.DistributedDataParallel)
    state = fastgpu_comm.hooks.PowerSgdState(model, rank=2, start_step=2)
    model.register_comm_hook(state, fastgpu_comm.hooks.power_sgd_hook)
    return model


def gloo(module: nn.Module, hook: str | None, views: bool = False) -> nn.Module:
    """Wraps a module in torch's DistributedDataParallel over gloo, with one of torch's hooks."""
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    options: dict[str, Any] = {"bucket_cap_mb": 1000} if hook == "PowerSGD" else {}
    options |= {"process_group": group, "gradient_as_bucket_view": views}
    model = nn.parallel.DistributedDataParallel(module, **options)
    if hook == "fp16":
        model.register_comm_hook(group, default_hooks.fp16_compress_hook)
    elif hook == "bf16":
        # torch refuses the hook itself without NCCL, by the function's name. gloo adds bfloat16.
        model.register_comm_hook(
            group, lambda state, bucket: default_hooks.bf16_compress_hook(state, bucket)
        )
    elif hook == "PowerSGD":
        state = powerSGD_hook.PowerSGDState(
            group, matrix_approximation_rank=2, start_powerSGD_iter=2
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return model


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    COMPUTE: lambda module: module,
    "fastgpu": lambda module: fastgpu(module, None),
    "fastgpu views": lambda module: fastgpu(module, None, views=True),
    "fastgpu fp16": lambda module: fastgpu(module, "fp16"),
    "fastgpu bf16": lambda module: fastgpu(module, "bf16"),
    "fastgpu int8": lambda module: fastgpu(module, "int8"),
    "fastgpu int4": lambda module: fastgpu(module, "int4"),
    AUTO: lambda module: fastgpu(module, "auto"),
    "fastgpu 1bit": lambda module: fastgpu(module, "1bit"),
    "fastgpu topk": lambda module: fastgpu(module, "topk"),
    "fastgpu PowerSGD": power_sgd,
    "gloo": lambda module: gloo(module, None),
    "gloo views": lambda module: gloo(module, None, views=True),
    "gloo fp16 hook": lambda module: gloo(module, "fp16"),
    "gloo bf16 hook": lambda module: gloo(module, "bf16"),
    "gloo PowerSGD hook": lambda module: gloo(module, "PowerSGD"),
}
