"""A folder of checkpoints that survives crashes and detects damaged files.

A file consists of 8 bytes of magic, the payload's size (8 bytes, little-endian), the payload's
SHA-256 (32 bytes), and the payload, which torch.save wrote. It is loaded with weights_only, so code
in a file is never run.

A file is written under a temporary name, synced to the disk, and then renamed. So a crash leaves no
incomplete file under a checkpoint's name, and the checksum detects any later damage.

One process at a time may use a folder; the Trainer uses it on rank 0 only.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from pathlib import Path
from typing import Any

import torch

_MAGIC = b"FGCKPT\x00\x01"
_HEADER = struct.Struct("<8sQ32s")
_NAME = re.compile(r"step-(\d{12})\.ckpt")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not match the run; the message says how."""


class CheckpointFolder:
    """Writes checkpoints, keeps the newest ones, and finds the newest undamaged one."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Does not access the disk.

        Args:
            folder: The folder of the files; the first `write` creates it.
            keep: How many checkpoints to keep, at least 1.
        """
        self._folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, oldest first."""
        if not self._folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """Returns the path of a step's checkpoint."""
        return self._folder / f"step-{step:012d}.ckpt"

    def write(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint, then removes the oldest ones.

        Args:
            step: The step that the checkpoint is named after.
            state: Tensors and plain Python values, nested in dicts, lists and tuples.

        Returns:
            The path of the file.

        Raises:
            OSError: The file could not be written. The earlier checkpoints are unchanged.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        payload = io.BytesIO()
        torch.save(state, payload)
        path = self.path(step)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            view = payload.getbuffer()
            file.write(_HEADER.pack(_MAGIC, len(view), hashlib.sha256(view).digest()))
            file.write(view)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(self._folder)
        for old in self.steps()[: -self._keep]:
            self.path(old).unlink()
        return path

    def newest_good(self) -> tuple[bytes | None, list[str]]:
        """Reads the newest undamaged checkpoint.

        Damaged files get the suffix ".damaged", so that they are not counted or tried again.

        Returns:
            The payload, or None if the folder has no checkpoint; and a message for each damaged
            file that was newer.

        Raises:
            CheckpointError: All checkpoints are damaged.
        """
        damages: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                return read_payload(path), damages
            except CheckpointError as error:
                renamed = path.with_name(path.name + ".damaged")
                path.replace(renamed)
                damages.append(f"{error} It was renamed to {renamed.name}.")
        if damages:
            raise CheckpointError(
                " ".join(damages) + " No good checkpoint is left: start again without resume."
            )
        return None, []


def read_payload(path: Path) -> bytes:
    """Returns the payload of a file, which `decode` reads, after verifying its checksum.

    Raises:
        CheckpointError: The file is damaged or not a checkpoint.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        payload = file.read()
    if len(header) < _HEADER.size:
        raise CheckpointError(
            f"Checkpoint {path} is cut off: it has {len(header)} bytes, the header alone has "
            f"{_HEADER.size}."
        )
    magic, size_bytes, digest = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise CheckpointError(f"{path} is not a checkpoint: it begins with {magic!r}.")
    if len(payload) != size_bytes:
        raise CheckpointError(
            f"Checkpoint {path} is cut off or too long: its payload has {len(payload)} bytes, its "
            f"header says {size_bytes}."
        )
    found = hashlib.sha256(payload).digest()
    if found != digest:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: the payload's SHA-256 is {found.hex()[:16]}..., its "
            f"header says {digest.hex()[:16]}...."
        )
    return payload


def decode(payload: bytes) -> dict[str, Any]:
    """Returns the state in a payload, with its tensors on the CPU."""
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _sync_folder(folder: Path) -> None:
    """Syncs a rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
