"""Checks and measures tensors on this machine's GPU through torch: gpu_torch.py SECTION.

A part of gpu_check.py, which builds the extension before, and whose lines this prints:

- `tests`: tests/process/test_devices.py, with the GPU in place of the pretended device
- `collectives`: every collective by 2 to 8 ranks that share the GPU, up to 1 GiB, results checked
- `rates`: all_reduce of ranks that share the GPU, beside gloo, and NCCL if there are enough GPUs

Exit status: 0 if every check passed, 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
MEASURED_BYTES = 64 << 20  # a rank
TARGET = 0.70  # of the traffic bound
LIMIT_S = 100

# Ranks, the largest size, and the dtypes, of the runs of all collectives.
RUNS = ((2, "1G", "float32"), (4, "64M", "bfloat16,int64"), (8, "8M", "float32"))

Row = dict[str, Any]


def line(kind: str, *fields: str) -> bool:
    """Prints a line of the check; returns whether it is no failure."""
    print("\t".join((kind, *(field.replace("\t", " ") for field in fields))), flush=True)
    return kind != "FAIL"


def environment() -> dict[str, str]:
    """Returns the environment in which this checkout's package is imported."""
    paths = [str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def outcomes(output: str) -> list[tuple[str, str, str]]:
    """Returns (kind, test, detail) for each test in pytest's short summary, as -rA prints it."""
    kinds = {"PASSED": "ok", "FAILED": "FAIL", "ERROR": "FAIL", "SKIPPED": "skip"}
    found = []
    for text in output.splitlines():
        word, _, rest = text.partition(" ")
        if word in kinds and "::" in rest:
            name, _, detail = rest.partition(" - ")
            found.append((kinds[word], name.rpartition("::")[2], detail or word.lower()))
    return found


def run_tests() -> bool:
    """Runs the tests of GPU tensors on the GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "tests/process/test_devices.py"],
        cwd=ROOT,
        env=environment() | {"CHECKED_DEVICE": "cuda"},
        capture_output=True,
        text=True,
    )
    found = outcomes(result.stdout)
    if not found:
        said = (result.stdout + result.stderr).strip().splitlines()[-1:]
        return line("FAIL", "tests", f"none ran: {' '.join(said)}")
    return all([line(*each) for each in found]) and result.returncode == 0


def bench(collectives: Sequence[str], world: int, options: Sequence[str]) -> list[Row] | str:
    """Returns the rows of `fastgpu-comm bench` on the GPU, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "fastgpu_comm", "bench", *collectives]
        command += ["--device", "cuda", "--nproc", str(world), "--json", str(path), *options]
        try:
            result = subprocess.run(
                command, env=environment(), capture_output=True, text=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {LIMIT_S} s"
        if not path.exists():
            return " / ".join((result.stdout + result.stderr).strip().splitlines()[-3:])
        rows: list[Row] = json.loads(path.read_text())["rows"]
        return rows


def faults_of(rows: Sequence[Row]) -> list[str]:
    """Returns what is wrong with each row that failed or has wrong elements."""
    return [
        f"{row['collective']} of {row['size_bytes']} bytes: "
        + (row["error"] or f"{row['wrong']} wrong elements")
        for row in rows
        if row["error"] or row["wrong"]
    ]


def check_collectives() -> bool:
    """Runs every collective; all ranks share the GPU."""
    passed = True
    short = ["--backend", "fastgpu", "--budget", "0", "--min-calls", "1", "--warmup", "1"]
    for world, last, dtypes in RUNS:
        options = [*short, "-b", "8", "-e", last, "-f", "64", "-d", dtypes]
        rows = bench(["all"], world, options)
        what = f"{world} ranks, {dtypes}, up to {last}"
        if isinstance(rows, str):
            passed &= line("FAIL", what, rows)
            continue
        faults = faults_of(rows)
        for fault in faults[:5]:
            line("FAIL", what, fault)
        if not faults:
            line("ok", what, f"{len(rows)} rows")
        passed &= not faults
    return passed


def copy_bytes_per_us() -> float:
    """Returns the traffic of a copy on the GPU, read and written bytes, in bytes per us."""
    import torch

    source = torch.ones(GIB // 4, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return float(2 * GIB / sorted(times)[len(times) // 2])


def measure() -> bool:
    """Measures all_reduce of ranks that share the GPU against the traffic that it must make."""
    import torch

    gpus = torch.cuda.device_count()
    copied = copy_bytes_per_us()
    line("rate", "copy of 1 GiB, through torch", f"{copied / 1e3:.0f} GB/s", "", "", "")
    passed = True
    for world in (2, 4, 8):
        backends = "fastgpu,gloo" + (",nccl" if gpus >= world else "")
        options = ["--backend", backends, "-b", "1K", "-e", "64M", "-f", "65536", "--budget", "1"]
        rows = bench(["all_reduce"], world, options)
        if isinstance(rows, str):
            passed &= line("FAIL", f"all_reduce of {world} ranks", rows)
            continue
        for fault in faults_of(rows):
            passed &= line("FAIL", f"all_reduce of {world} ranks", fault)
        for row in rows:
            if row["timing"]:
                report(row, world, copied)
    return passed


def report(row: Row, world: int, copied: float) -> None:
    """Prints a row. Each rank's data must be read and written once, whatever the algorithm."""
    time_us = row["timing"]["p50_us"]
    what = f"all_reduce of {row['size_bytes']} bytes, {world} ranks, {row['backend']}"
    share = 2 * world * row["size_bytes"] / copied / time_us
    if row["backend"] != "fastgpu" or row["size_bytes"] < MEASURED_BYTES:
        line("rate", what, f"{time_us:.1f} us", "", "", "")
        return
    met = "met" if share >= TARGET else "missed"
    line("rate", what, f"{time_us:.1f} us", f"{share:.0%}", f"{TARGET:.0%}", met)


SECTIONS = {"tests": run_tests, "collectives": check_collectives, "rates": measure}


def main() -> int:
    """Runs a section; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("section", choices=SECTIONS)
    section = parser.parse_args().section
    passed = SECTIONS[section]()
    line("end", section)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
