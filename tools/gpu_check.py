"""Checks and measures device code on this machine's GPU: gpu_check.py [--build-only].

Builds tests/gpu without torch, for the GPU's own architecture, and beside it the extension, if this
Python has a CUDA build of torch. Runs each section as a separate process, so that a kernel that
hangs or faults costs one section. Prints each line as it is known, and writes a report. Exit
status: 0 if every check passed, 1 if not, 77 if there is no GPU. A missed target is no failure.
Needs nvcc, cmake and ninja, and no network.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gpu_report import Line, Machine, Result, parse, render, shown

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path("tests/gpu/fastgpu_gpu_check")
TOOLS = ("nvcc", "cmake", "ninja")
NO_GPU = 77
LIMIT_S = 480  # of all steps together
ANY_GPU = "90-real"  # what --build-only compiles for


class Step(NamedTuple):
    """A section of the program, run once."""

    title: str
    section: str
    limit_s: float
    sanitizer: str = ""  # the tool of compute-sanitizer
    through_torch: bool = False  # a section of gpu_torch.py, which needs the extension


CHECKS = ("reduce", "codec", "lanes", "small")
STEPS = (
    Step("GPU", "describe", 30),
    Step("conversions", "conversions", 90),
    Step("n-way reduction", "reduce", 60),
    Step("encode, decode and reduce", "codec", 60),
    Step("lanes, all ranks in one launch", "lanes", 90),
    Step("small all_reduce, all ranks in one launch", "small", 60),
    Step("a launch for each rank", "launches", 60),
    Step("failures", "failures", 60),
    *(Step(f"{s} under memcheck", s, 30, "memcheck") for s in CHECKS),
    *(Step(f"{s} under racecheck", s, 30, "racecheck") for s in CHECKS),
    Step("rates", "rates", 60),
    Step("rates of codecs", "codec_rates", 40),
    Step("tensors in torch", "tests", 150, through_torch=True),
    Step("ranks that share the GPU", "collectives", 120, through_torch=True),
    Step("rates through torch", "rates", 120, through_torch=True),
)


def why_no_gpu() -> str:
    """Returns why no GPU can be used; empty if one can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no driver (libcuda.so.1)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the driver does not start (cuInit returns {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    return "" if status == 0 and count.value > 0 else "the driver finds no GPU"


def find_sanitizer() -> str:
    """Returns the path of compute-sanitizer, or an empty string."""
    homes = (os.environ.get("CUDA_HOME", ""), "/usr/local/cuda")
    folders = os.pathsep.join([os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes)])
    return shutil.which("compute-sanitizer", path=folders) or ""


def build(folder: Path, architecture: str) -> bool:
    """Builds the program; returns whether that succeeded."""
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder)]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DFASTGPU_TORCH=OFF", "-DFASTGPU_TESTS=ON"]
    configure += ["-DFASTGPU_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture}"]
    configure += ["--log-level=WARNING"]
    make = ["cmake", "--build", str(folder), "--target", PROGRAM.name]
    return all(subprocess.run(command).returncode == 0 for command in (configure, make))


class Extension:
    """The extension for torch, built beside the program of the other steps.

    Attributes:
        why_not: Why it cannot be used, or an empty text. Known after wait().
    """

    def __init__(self, folder: Path, architecture: str) -> None:
        """Starts the build, if this Python has a CUDA build of torch."""
        self._folder = folder
        self.why_not = why_no_torch()
        self._build: subprocess.Popen[str] | None = None
        if self.why_not:
            return
        configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder)]
        configure += ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_UNITY_BUILD=ON", "-DFASTGPU_CUDA=ON"]
        configure += [f"-DCMAKE_CUDA_ARCHITECTURES={architecture}", "--log-level=WARNING"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}"]
        make = ["cmake", "--build", str(folder), "--target", "fastgpu_native"]
        self._build = subprocess.Popen(
            ["sh", "-c", f"{shlex.join(configure)} && {shlex.join(make)}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> None:
        """Waits for the build, and puts the extension where Python finds it in this checkout."""
        if self._build is None:
            return
        said, _ = self._build.communicate()
        if self._build.returncode != 0:
            self.why_not = "the extension does not build: " + " / ".join(said.splitlines()[-5:])
            return
        for name in ("_native*.so", "_built_with.py"):
            for built in (self._folder / "csrc/torch").glob(name):
                shutil.copy(built, ROOT / "python/fastgpu_comm")


def why_no_torch() -> str:
    """Returns why this Python cannot build the extension; empty if it can."""
    asked = "import torch, pybind11; print(torch.version.cuda or '')"
    result = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    if result.returncode != 0:
        return f"{sys.executable} has no torch or no pybind11"
    return "" if result.stdout.strip() else f"torch in {sys.executable} is for CPUs"


def command_of(step: Step, program: Path, sanitizer: str) -> list[str]:
    """Returns the command that runs a step."""
    if step.through_torch:
        return [sys.executable, str(ROOT / "tools/gpu_torch.py"), step.section]
    if not step.sanitizer:
        return [str(program), step.section]
    wrapped = [sanitizer, "--tool", step.sanitizer, "--error-exitcode", "9", str(program)]
    return [*wrapped, step.section, "--reduced"]


@dataclass
class Output:
    """What a step printed."""

    lines: list[Line] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    complete: bool = False

    def add(self, text: str) -> Line | None:
        """Adds a line of text; returns it if it belongs into the report."""
        line = parse(text)
        if line is None:
            self.other.append(text.rstrip())
        elif line.kind == "end":
            self.complete = True
            return None
        else:
            self.lines.append(line)
        return line


def verdict_of(step: Step, output: Output, status: int, ended_in_time: bool) -> Line | None:
    """Returns the line that a step itself deserves."""
    if not ended_in_time:
        return Line("FAIL", (step.title, f"did not end within {step.limit_s:.0f} s"))
    said = " / ".join(output.other[-5:])
    if not output.complete:
        return Line("FAIL", (step.title, f"exit status {status} before its end: {said}"))
    failed = any(line.kind == "FAIL" for line in output.lines)
    if status != 0 and not failed:
        return Line("FAIL", (step.title, f"exit status {status}, expected 0: {said}"))
    if step.sanitizer and not failed:
        return Line("ok", (step.title, said))
    return None


def run(step: Step, command: Sequence[str], limit_s: float) -> Result:
    """Runs a step and prints its lines."""
    begin = time.monotonic()
    limited = step._replace(limit_s=limit_s)
    output = Output()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit_s, end)
    timer.start()
    assert process.stdout is not None
    for text in process.stdout:
        line = output.add(text)
        # Under a sanitizer the program prints the same checks again.
        if line is not None and not (step.sanitizer and line.kind == "ok"):
            print(shown(line), flush=True)
    status = process.wait()
    timer.cancel()
    verdict = verdict_of(limited, output, status, not late.is_set())
    lines = [line for line in output.lines if not step.sanitizer or line.kind == "FAIL"]
    if verdict is not None:
        print(shown(verdict), flush=True)
        lines.append(verdict)
    return Result(step.title, lines, time.monotonic() - begin)


def run_all(
    program: Path, extension: Extension, write: bool, report: Path, machine: Machine
) -> bool:
    """Runs all steps; returns whether no check failed."""
    begin = time.monotonic()
    sanitizer = find_sanitizer()
    results: list[Result] = []
    for step in STEPS:
        left = LIMIT_S - (time.monotonic() - begin)
        why_not = "no compute-sanitizer" if step.sanitizer and not sanitizer else ""
        if step.through_torch:
            why_not = extension.why_not
        if why_not:
            results.append(Result(step.title, [Line("skip", (step.title, why_not))]))
            print(shown(results[-1].lines[0]), flush=True)
        elif left < 1:
            results.append(Result(step.title, [Line("FAIL", (step.title, "no time was left"))]))
            print(shown(results[-1].lines[0]), flush=True)
        else:
            print(f"-- {step.title}", flush=True)
            command = command_of(step, program, sanitizer)
            results.append(run(step, command, min(step.limit_s, left)))
        if write:  # after every step: an interrupted run keeps its results
            waiting = [later.title for later in STEPS[len(results) :]]
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(render(machine, results, waiting))
    print(f"{time.monotonic() - begin:.0f} s after the build", flush=True)
    return not any(line.kind == "FAIL" for result in results for line in result.lines)


def output_of(*command: str) -> str:
    """Returns the last line that a command prints, or an empty string."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""


def this_machine(arguments: Sequence[str]) -> Machine:
    """Describes the machine for the report; the program itself adds the GPU's name."""
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    commit = output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10")
    return Machine(
        driver=driver or "unknown",
        compiler=output_of("nvcc", "--version") or "unknown",
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=" ".join(["tools/gpu_check.py", *arguments]),
        commit=commit or "unknown",
    )


def main(arguments: Sequence[str]) -> int:
    """Builds, checks and measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--build-only", action="store_true", help="compile for sm_90, run nothing")
    parser.add_argument("--no-report", action="store_true", help="print the lines only")
    parser.add_argument("--report", type=Path, default=ROOT / "bench/results/gpu_check.md")
    parser.add_argument("--build", type=Path, default=ROOT / "build/gpu-check")
    options = parser.parse_args(arguments)
    reason = "" if options.build_only else why_no_gpu()
    if reason:
        print(f"gpu-check: no GPU, so nothing was checked: {reason}")
        return NO_GPU
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"gpu-check: missing on PATH: {', '.join(missing)}")
        return 1
    begin = time.monotonic()
    architecture = ANY_GPU if options.build_only else "native"
    extension = Extension(options.build / "torch", architecture)
    if not build(options.build, architecture):
        print("gpu-check: the build failed")
        return 1
    extension.wait()  # before anything is measured
    print(f"built in {time.monotonic() - begin:.0f} s", flush=True)
    if options.build_only:
        print(f"extension: {extension.why_not or 'built'}")
        return 0
    program = options.build / PROGRAM
    machine = this_machine(arguments)
    passed = run_all(program, extension, not options.no_report, options.report, machine)
    print("gpu-check: passed" if passed else "gpu-check: FAILED", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
