"""Names that users type: spellings that mean the same, and suggestions for unknown names.

This module does not import torch, because the command line reads it for `--help`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

_LIKE = 0.6  # 1 for equal names; difflib's own limit for a good match


def find(name: str, known: Collection[str]) -> str | None:
    """Returns the known name that equals `name` but for case, `-` and `_`: allreduce, All-Reduce.

    None if there is no such name.
    """
    return next((each for each in known if _plain(each) == _plain(name)), None)


def suggestion(name: str, known: Collection[str]) -> str:
    """Returns " Did you mean 'NAME'?" with the known name most like `name`; "" if none is.

    If several names are equally like it, the first of them in `known` wins: list the usual first.
    """

    def likeness(each: str) -> float:
        return difflib.SequenceMatcher(None, _plain(each), _plain(name)).ratio()

    best = max(known, key=likeness, default="")
    return f" Did you mean {best!r}?" if likeness(best) >= _LIKE else ""


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """Returns the error for a name that is not one of `known`.

    Args:
        kind: The kind of name, such as "collective".
        name: What the user wrote.
        known: The names that exist.
    """
    choice = ", ".join(known)
    return f"there is no {kind} {name!r}.{suggestion(name, known)} The choice is: {choice}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
