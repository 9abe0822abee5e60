"""A text that every machine has: the source files of Python's standard library, as bytes."""

from __future__ import annotations

import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib"}
_FILES_PER_VALIDATION_FILE = 16


def standard_library_text(limit_bytes: int) -> tuple[bytes, bytes]:
    """Returns a text for training and a text for validation, from different files.

    Files are read in the order of a hash of their names, which is the same on every machine, so
    that the first bytes are a fair mix of the library. One file in 16 is for validation.

    Args:
        limit_bytes: About how much to read in all; less if the library is smaller.

    Raises:
        FileNotFoundError: This Python has no source files of the standard library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(_sources(root), key=lambda name: (zlib.crc32(name.encode()), name))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size_bytes = 0
    for name in names:
        if size_bytes >= limit_bytes:
            break
        content = (root / name).read_bytes()
        validation = (len(parts[0]) + len(parts[1])) % _FILES_PER_VALIDATION_FILE == 1
        parts[validation].append(content)
        size_bytes += len(content)
    if not parts[0] or not parts[1]:
        raise FileNotFoundError(
            f"{root} has no source files of the standard library to train on. Use a Python that "
            "comes with them; some minimal images omit them."
        )
    return b"".join(parts[0]), b"".join(parts[1])


def _sources(root: Path) -> Iterator[str]:
    """Yields the names of the Python files to read, relative to `root`, in any order."""
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        for name in files:
            if name.endswith(".py"):
                yield (Path(folder) / name).relative_to(root).as_posix()


class TextWindows(Dataset[tuple[Tensor, Tensor]]):
    """A dataset of adjacent, non-overlapping pieces of a text.

    A sample is two int64 tensors of shape (context,): the bytes, and the next byte of each.
    """

    def __init__(self, text: bytes, context: int) -> None:
        """Takes the text, and the number of bytes in a sample.

        Raises:
            ValueError: The text is too short for a sample.
        """
        self._context = context
        self._count = (len(text) - 1) // context
        if self._count < 1:
            raise ValueError(
                f"A text of {len(text)} bytes is too short: a sample needs {context + 1}."
            )
        self._text = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def __len__(self) -> int:
        """Returns the number of samples."""
        return self._count

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Returns the sample at `index`."""
        start = index * self._context
        piece = self._text[start : start + self._context + 1].long()
        return piece[:-1], piece[1:]
