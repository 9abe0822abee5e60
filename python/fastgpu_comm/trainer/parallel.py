"""Wraps a trainer's model for data parallel training, and reads its residuals."""

from __future__ import annotations

import contextlib
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import codecs
from fastgpu_comm.ddp import DistributedDataParallel


def wrap(model: nn.Module, codec: codecs.Codec | str | None, weighted: bool) -> nn.Module:
    """Wraps a plain model over the default process group, if there is one.

    Raises:
        ValueError: The model is wrapped already, so that it cannot get a codec or weights; or the
            group allows neither.
    """
    if isinstance(model, TorchDDP):
        for wanted, name in ((codec, "TrainerSettings.codec"), (weighted, "Datasets.weigh")):
            if wanted:
                raise ValueError(
                    f"{name} is for a model that the trainer wraps; give it a plain one. A codec "
                    "can also be passed to fastgpu_comm.DistributedDataParallel."
                )
        return model
    if not dist.is_initialized():
        return model
    # The trainer keeps no gradient beyond its step, so gradients may lie in the buckets. This saves
    # two copies of every gradient in each step.
    weights = "sum" if weighted else None
    return DistributedDataParallel(
        model, codec=codec, weighted=weights, gradient_as_bucket_view=True
    )


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Returns the context for a backward pass whose gradients stay on the rank."""
    return model.no_sync() if isinstance(model, TorchDDP) else contextlib.nullcontext()


def residuals(model: nn.Module) -> dict[str, Any] | None:
    """Returns what this rank's gradients lost to their codec, or None without a codec."""
    if isinstance(model, DistributedDataParallel) and model.measures:
        return model.reducer_state_dict()
    return None
