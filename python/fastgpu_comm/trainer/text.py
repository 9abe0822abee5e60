"""Real text that every machine has: the source files of Python's standard library, as bytes."""

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
    """Returns text to train on and text to validate on, of different files.

    Files are taken in the order of a hash of their names, the same on every machine, so that the
    first so many bytes are a fair mix of the library. Which of the two a file goes to depends on
    its place in that order.

    Args:
        limit_bytes: about how much to read in all; less if the library is smaller.

    Raises:
        FileNotFoundError: when this Python has no standard library in source files.
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
            f"{root} holds no source files of the standard library to train on. Use a Python that "
            "comes with them (some minimal images leave them out)."
        )
    return b"".join(parts[0]), b"".join(parts[1])


def _sources(root: Path) -> Iterator[str]:
    """Returns the names below the folder, in no order, of the Python files to read."""
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        for name in files:
            if name.endswith(".py"):
                yield (Path(folder) / name).relative_to(root).as_posix()


class TextWindows(Dataset[tuple[Tensor, Tensor]]):
    """A dataset of pieces of a text that touch but do not overlap.

    A sample is (bytes, the byte after each of them), two int64 tensors of `context` elements.
    """

    def __init__(self, text: bytes, context: int) -> None:
        """Takes the text.

        Raises:
            ValueError: when the text is too short for a single sample.
        """
        self._context = context
        self._count = (len(text) - 1) // context
        if self._count < 1:
            raise ValueError(
                f"A text of {len(text)} bytes is too short: a sample takes {context + 1}."
            )
        self._text = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def __len__(self) -> int:
        """Returns how many samples there are."""
        return self._count

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Returns a sample."""
        start = index * self._context
        piece = self._text[start : start + self._context + 1].long()
        return piece[:-1], piece[1:]
