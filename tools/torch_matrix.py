"""Builds and tests the package against several versions of torch, each in its own environment.

torch_matrix.py [VERSION ...] makes an environment under build/matrix, installs that torch there,
builds the extension, runs the tests that meet torch, then torch's own (tools/torch_suite.py), and
writes the row of bench/results/torch_matrix.md. torch 2.14 and later come as CUDA builds of several
GB, which run on the CPU. An environment that exists is used again. With `--tests` it runs those
tests alone and prints the row only: a quick look at another interpreter (`--python`).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MATRIX = ROOT / "build" / "matrix"
TABLE = ROOT / "bench" / "results" / "torch_matrix.md"
VERSIONS = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")
# Packages to build and test with, in the versions of requirements.txt.
PACKAGES = ("scikit_build_core", "cmake", "ninja", "rich", "numpy", "matplotlib", "tensorboard")
TEST_PACKAGES = ("pytest", "pytest-timeout", "hypothesis", "expecttest")
# ccache, if it is in use, then compiles what is free of torch once for all versions, since all
# build folders lie at the same depth.
ENVIRONMENT = {"VIRTUAL_ENV": "", "CMAKE_GENERATOR": "Ninja", "CCACHE_BASEDIR": str(ROOT)}
# The tests whose subject is this package and torch together.
TESTS = (
    "tests/process/test_import.py",
    "tests/process/test_groups.py",
    "tests/process/test_collectives.py",
    "tests/process/test_failures.py",
    "tests/process/test_ddp.py",
    "tests/process/test_devices.py",
    "tests/process/test_fsdp.py",
    "tests/process/test_integrations.py",
    "tests/process/test_newer_torch.py",
    "tests/process/test_windows.py",
    "tests/process/test_trainer.py",
    "tests/unit/test_empty.py",
    "tests/unit/test_stub.py",
    "tests/torch_device",
)
HEADER = """# Versions of torch

`make torch-matrix` builds the extension for each torch, in an environment of its own, and runs the
tests that meet torch ({machine}).

| torch | Python | warnings | tests | torch's own tests on fastgpu |
| --- | --- | ---: | --- | --- |
"""


def run(command: Sequence[str | Path], log: Path, **variables: str) -> tuple[int, str]:
    """Runs a command, appends what it prints to `log`, and returns its status and output."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, command))}\n{result.stdout}\n")
    return result.returncode, result.stdout


def make_environment(folder: Path, version: str, interpreter: str, log: Path) -> Path:
    """Returns the interpreter of an environment that has torch `version` and the build tools."""
    python = folder / "bin" / "python"
    if not python.exists():
        must([interpreter, "-m", "venv", folder], log)
    pins = MATRIX / "constraints.txt"
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in requirements if not line.startswith("torch==")))
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", pins]
    must([*pip, f"torch=={version}", *PACKAGES, *TEST_PACKAGES], log)
    return python


def must(command: Sequence[str | Path], log: Path) -> str:
    """Runs a command that has to succeed, and returns its output."""
    status, output = run(command, log)
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{output[-3000:]}\nmore in {log}")
    return output


def build(place: Path, python: Path, log: Path) -> int:
    """Builds and installs the extension; returns the number of the compiler's warnings.

    `place` is the build folder. It then has the tests' torch device, too.
    """
    to = f"--config-settings=build-dir={place}"
    options = ("--no-build-isolation", "--no-deps", "--force-reinstall", to)
    output = must([python, "-m", "pip", "install", "--verbose", *options, "."], log)
    cmake = python.parent / "cmake"
    must([cmake, "-B", place, "-DFASTGPU_TESTS=ON"], log)
    output += must([cmake, "--build", place, "--target", "fastgpu_pretended"], log)
    must([cmake, "-B", place, "-DFASTGPU_TESTS=OFF"], log)
    return len(re.findall(r"\bwarning:", output))


def last_match(pattern: str, output: str) -> str:
    """Returns the last match of `pattern` in a command's output, or a question mark."""
    found = re.findall(pattern, output)
    return str(found[-1]) if found else "?"


def passed_of_own(output: str) -> str:
    """Returns how many of torch's own tests passed, failed and were skipped on fastgpu."""
    rows = re.findall(r"\| fastgpu \| (\d+) \| (\d+) \| (\d+) \|", output)
    counts = [str(sum(map(int, column))) for column in zip(*rows, strict=True)] or ["?"] * 3
    words = ("passed", "failed", "skipped")
    return ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True))


def row(version: str, interpreter: str, chosen: Sequence[str], suite: bool) -> tuple[bool, str]:
    """Makes, builds and tests one version; returns whether all passed, and its row."""
    folder = MATRIX / f"{version}-{Path(interpreter).name}"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    log.write_text("")
    python = make_environment(folder, version, interpreter, log)
    place = MATRIX.parent / f"extension-{folder.name}"
    warnings = build(place, python, log)
    device = next((place / "tests" / "torch_device").glob("_pretended*.so"))
    say = "import platform, torch; print(torch.__version__, platform.python_version())"
    found = must([python, "-c", say], log).split()
    command: list[str | Path] = [python, "-m", "pytest", "-q", *chosen]
    tests, output = run(command, log, PRETENDED_MODULE=str(device))
    tested = last_match(r"((?:\d+ \w+(?:, )?)+) in [\d.]+s", output)
    own, own_tested = 0, "not run"
    if suite:
        own, output = run([python, "tools/torch_suite.py"], log)
        own_tested = passed_of_own(output)
    line = f"| {found[-2]} | {found[-1]} | {warnings} | {tested} | {own_tested} |"
    return tests == own == 0, line


def write_table(line: str) -> None:
    """Puts a row into the table, in the place of an earlier one for the same versions."""
    earlier = TABLE.read_text().splitlines() if TABLE.exists() else []
    rows = {tuple(row.split("|")[1:3]): row for row in [*earlier, line] if row.startswith("| 2.")}
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    TABLE.write_text(HEADER.format(machine=machine) + "\n".join(sorted(rows.values())) + "\n")


def main() -> int:
    """Runs the versions one after another, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--no-suite", action="store_true", help="leave out torch's own tests")
    parser.add_argument("--tests", nargs="+", help="run these tests only, and write no table")
    arguments = parser.parse_args()
    chosen, suite = arguments.tests or TESTS, not (arguments.tests or arguments.no_suite)
    passed = True
    for version in arguments.versions:
        started = time.monotonic()
        good, line = row(version, arguments.python, chosen, suite)
        passed = passed and good
        if not arguments.tests:
            write_table(line)
        print(f"{line}  ({time.monotonic() - started:.0f} s)", flush=True)
    written = "" if arguments.tests else f"wrote {TABLE.relative_to(ROOT)}; "
    print(f"{written}what each printed: {MATRIX}/*/log.txt")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
