"""Compares tensors across ranks by digests of their bits."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from fastgpu_comm.loss_scales import listed

_DIGEST_BYTES = 32
_SHOWN = 8  # names in an error


def compare_gradients(
    group: dist.ProcessGroup,
    gradients: Mapping[str, torch.Tensor | None],
    buckets: Sequence[Sequence[str]],
    step: int,
) -> None:
    """Checks that reduced gradients, by name of the parameter, are the same on all ranks."""
    titles = {
        name: f"Gradients of bucket {index} in step {step}"
        for index, bucket in enumerate(buckets)
        for name in bucket
    }
    _compare(group, titles, [gradients[name] for name in titles])


def compare_parameters(group: dist.ProcessGroup, module: torch.nn.Module, step: int) -> None:
    """Checks that the parameters are the same on all ranks."""
    named = dict(module.named_parameters())
    title = f"Parameters after step {step}"
    _compare(group, dict.fromkeys(named, title), list(named.values()))


def _compare(
    group: dist.ProcessGroup, titles: Mapping[str, str], tensors: Sequence[torch.Tensor | None]
) -> None:
    """Checks that tensors have the same bits on all ranks. A collective.

    Args:
        group: The process group.
        titles: The name of each tensor, and the title under which errors list the tensor.
        tensors: The tensors, in the same order. All ranks have the same names in one order.

    Raises:
        RuntimeError: On all ranks: it lists for each title the names of the tensors and the ranks
            that differ. These are the ranks without the bits that most ranks have; if two sets of
            ranks are as large, those of the set without the lowest rank.
    """
    device = next((tensor.device for tensor in tensors if tensor is not None), "cpu")
    mine = torch.tensor(list(b"".join(map(_digest, tensors))), dtype=torch.uint8, device=device)
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, mine, group=group)
    rows = [bytes(row.tolist()) for row in gathered]
    names: dict[str, list[str]] = {}
    ranks: dict[str, set[int]] = {}
    for index, (name, title) in enumerate(titles.items()):
        at = slice(index * _DIGEST_BYTES, (index + 1) * _DIGEST_BYTES)
        if differing := _differing([row[at] for row in rows]):
            names.setdefault(title, []).append(name)
            ranks.setdefault(title, set()).update(differing)
    if not names:
        return
    found = [
        f"{title}: {_shortened(names[title])}, on {listed(sorted(ranks[title]))}" for title in names
    ]
    raise RuntimeError(f"the ranks have different bits. {'; '.join(found)}.")


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _differing(digests: list[bytes]) -> list[int]:
    common = max(digests, key=digests.count)  # the first of several
    return [rank for rank, digest in enumerate(digests) if digest != common]


def _digest(tensor: torch.Tensor | None) -> bytes:
    if tensor is None:
        return hashlib.sha256(b"None").digest()
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce()
        return hashlib.sha256(_digest(tensor.indices()) + _digest(tensor.values())).digest()
    flat = tensor.cpu().contiguous()
    memory = (ctypes.c_char * flat.nbytes).from_address(flat.data_ptr()) if flat.nbytes else b""
    return hashlib.sha256(memory).digest()
