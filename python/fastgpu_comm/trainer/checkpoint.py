"""A folder of checkpoints that survives crashes, and tells a good file from a damaged one.

A file is: 8 bytes of magic, 8 bytes with the payload's size (little-endian), 32 bytes of its
SHA-256, the payload (torch.save, read back with weights_only: no code of a file is ever run).
It is written under another name, brought to the disk and then renamed, so under its final name it
is whole, unless the disk lies or a hand slips: the checksum finds that.

One process at a time may use a folder; the Trainer uses it from rank 0 only.
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
    """A checkpoint is damaged or does not fit the run; the message says which and how."""


class CheckpointFolder:
    """Writes checkpoints, keeps the newest few, and finds the newest good one."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Does not touch the disk.

        Args:
            folder: where the files lie; made when the first is written.
            keep: how many are kept, at least 1.
        """
        self._folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints there, oldest first."""
        if not self._folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """Returns where the checkpoint of a step lies."""
        return self._folder / f"step-{step:012d}.ckpt"

    def write(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint, then removes the oldest beyond those to keep.

        When this raises (the disk is full, say), the earlier checkpoints are still there.
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
        """Finds the newest checkpoint that is whole.

        Damaged ones are set aside (".damaged" is added to their name), so that they neither count
        among those to keep nor are tried again.

        Returns:
            Its payload (None when the folder holds no checkpoint), and what was found in each
            damaged file that is newer.

        Raises:
            CheckpointError: when there are checkpoints, and all of them are damaged.
        """
        damages: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                return read_payload(path), damages
            except CheckpointError as error:
                aside = path.with_name(path.name + ".damaged")
                path.replace(aside)
                damages.append(f"{error} It is now {aside.name}.")
        if damages:
            raise CheckpointError(
                " ".join(damages) + " No good checkpoint is left: start anew without resume."
            )
        return None, []


def read_payload(path: Path) -> bytes:
    """Returns what `decode` reads, after checking that the file is whole.

    Raises:
        CheckpointError: saying what was found.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        payload = file.read()
    if len(header) < _HEADER.size:
        raise CheckpointError(
            f"Checkpoint {path} is cut off: {len(header)} bytes, the header alone has "
            f"{_HEADER.size}."
        )
    magic, size_bytes, digest = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise CheckpointError(f"{path} is no checkpoint: it begins with {magic!r}, not {_MAGIC!r}.")
    if len(payload) != size_bytes:
        raise CheckpointError(
            f"Checkpoint {path} is cut off or has grown: it holds {len(payload)} bytes, its header "
            f"says {size_bytes}."
        )
    found = hashlib.sha256(payload).digest()
    if found != digest:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: its SHA-256 is {found.hex()[:16]}..., its header says "
            f"{digest.hex()[:16]}...."
        )
    return payload


def decode(payload: bytes) -> dict[str, Any]:
    """Returns the state that was written, its tensors on the CPU."""
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _sync_folder(folder: Path) -> None:
    """Brings a rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
