"""Runs clang-tidy on what a build compiles, in parallel: tidy.py BUILD_FOLDER.

The build may compile sources in groups, which are then checked as groups: a third of the time. A
source that passed is checked again only if the source, a project file that it includes, its compile
command or the configuration has changed. BUILD_FOLDER/tidy has a stamp for each.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = [ROOT / name for name in (".clang-tidy", "tests/.clang-tidy", "requirements.txt")]
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


@functools.cache
def project_includes(source: Path) -> frozenset[Path]:
    """Returns the project's files that `source` includes, directly or indirectly."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        current = waiting.pop()
        for name in INCLUDE.findall(current.read_text()):
            for folder in (ROOT / "csrc", ROOT / "tests", current.parent):
                header = (folder / name).resolve()
                if header.is_file() and header not in found:
                    found.add(header)
                    waiting.append(header)
    return frozenset(found)


def stamp_name(source: Path, command: str) -> str:
    """Returns a name that changes whenever clang-tidy's result for `source` could change."""
    digest = hashlib.sha256(command.encode())
    for path in (*CONFIGURATION, source, *sorted(project_includes(source))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check(source: Path, build: Path, stamp: Path) -> str:
    """Runs clang-tidy on one source; returns the findings, empty if there are none."""
    result = subprocess.run(
        ["clang-tidy", "--quiet", "-p", str(build), str(source)], capture_output=True, text=True
    )
    if result.returncode == 0:
        stamp.touch()
        return ""
    return result.stdout + result.stderr


def main(arguments: list[str]) -> int:
    """Checks all sources of the build; returns the exit status."""
    build = Path(arguments[0]).resolve()
    stamps = build / "tidy"
    stamps.mkdir(exist_ok=True)
    commands = json.loads((build / "compile_commands.json").read_text())
    waiting = []
    for entry in commands:
        source = Path(entry["directory"], entry["file"]).resolve()
        stamp = stamps / stamp_name(source, entry["command"])
        if not stamp.exists():
            waiting.append((source, build, stamp))
    print(f"clang-tidy: {len(waiting)} of {len(commands)} sources to check", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for findings in pool.map(lambda job: check(*job), waiting):
            if findings:
                failed += 1
                print(findings, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
