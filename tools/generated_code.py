"""Sources, stamps and the report of check_gpu_code.py and check_hip_code.py."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tidy import project_includes

ROOT = Path(__file__).resolve().parent.parent


def library_sources() -> list[Path]:
    """Returns the library's sources of device code and of the runtime that launches it."""
    return sorted((ROOT / "csrc").rglob("*.cu"))


def digest_of(checker: Path, source: Path, version: str) -> str:
    """Returns a name that changes whenever the result of `checker` for `source` could change."""
    digest = hashlib.sha256(version.encode())
    for path in (Path(__file__), checker, source, *sorted(project_includes(source))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run(title: str, checks: Mapping[Path, Callable[[], list[str]]]) -> int:
    """Runs the checks whose stamp, a file, does not exist yet; returns the exit status.

    Args:
        title: What is checked.
        checks: Functions that return faults, by stamp.
    """
    waiting = {stamp: check for stamp, check in checks.items() if not stamp.exists()}
    print(f"{title}: {len(waiting)} of {len(checks)} compilations to run", flush=True)
    failed = False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda check: check(), waiting.values())
        for stamp, faults in zip(waiting, found, strict=True):
            if not faults:
                stamp.touch()
            failed = failed or bool(faults)
            for fault in faults:
                print(fault, flush=True)
    return 1 if failed else 0
