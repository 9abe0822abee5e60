"""Compiles the device code for GPUs, and checks what the compiler made of it: check_gpu_code.py.

No GPU is needed, only nvcc. A warning is an error. The code must not spill registers, use a stack,
or load through caches that are not coherent; it must move data 16 bytes at a time, and acquire and
release words for the whole system. Without nvcc the check is skipped, with the reason. A source
that passed is compiled again only if it, a header that it includes, or this file has changed.

The sources of `make gpu-check` (tests/gpu) are compiled for one architecture, and their host code
is only parsed.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from generated_code import ROOT, digest_of, library_sources, run

BUILD = ROOT / "build" / "gpu-code"

FLAGS = [
    *("-std=c++20", "-O3", "--fmad=false", "-Xcompiler=-Wall,-Wextra", "-Werror=all-warnings"),
    *("--ptxas-options=-v", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}"),
]
HOPPER = "-gencode=arch=compute_90,code=sm_90"
# One PTX for all: no source depends on the architecture, and the compiler's front end takes longer
# than the assemblers.
ALL_GPUS = ["-gencode=arch=compute_80,code=[sm_80,sm_90,sm_100,compute_80]"]

STACK = re.compile(
    r"^.*\b[1-9]\d* bytes (?:stack frame|spill stores|spill loads)\b.*$", re.MULTILINE
)
INCOHERENT = re.compile(r"^.*\bld\.global\.nc\b.*$", re.MULTILINE)
WIDE = ("ld.global.v4.u32", "st.global.v4.u32")
ORDER = ("ld.acquire.sys.global.u64", "st.release.sys.global.u64")

# What the PTX of a source must contain. Words of the small all_reduce carry their data: no order.
NEEDED: dict[str, tuple[str, ...]] = {
    "csrc/kernels/cuda/codec_code.cu": WIDE,
    "csrc/kernels/cuda/reduce_code.cu": WIDE,
    "csrc/device/cuda_driver.cu": (),  # host code
    "csrc/device/cuda_memory.cu": (),
    "csrc/device/cuda_runtime.cu": (),
    "csrc/engine/device/lane_code.cu": WIDE + ORDER,
    "csrc/engine/device/small_code.cu": ("st.relaxed.sys.global.u64", "ld.relaxed.sys.global.u64"),
    "tests/gpu/conversions.cu": ("cvt.rn.bf16x2.f32", "cvt.rn.f16x2.f32", "cvt.f32.f16"),
    "tests/gpu/ranks.cu": WIDE + ORDER,
}


def sources() -> list[Path]:
    """Returns the sources of device code."""
    return sorted([*library_sources(), *(ROOT / "tests" / "gpu").glob("*.cu")])


def faults_of_log(log: str) -> list[str]:
    """Returns the kernels' faults that the assembler reports."""
    return [f"uses a stack: {line.strip()}" for line in STACK.findall(log)]


def faults_of_ptx(name: str, ptx: str, needed: tuple[str, ...]) -> list[str]:
    """Returns what is wrong in the PTX of a source, which must contain `needed`."""
    found = [f"{name}: incoherent load: {line.strip()}" for line in INCOHERENT.findall(ptx)]
    return found + [f"{name}: no {what}" for what in needed if what not in ptx]


def stamp_of(source: Path, version: str) -> Path:
    """Returns the file that exists if `source` has passed as it is."""
    return BUILD / f"{source.stem}-{digest_of(Path(__file__), source, version)}.passed"


def host_source() -> Path:
    """Writes and returns a source that includes the host code of tests/gpu."""
    path = BUILD / "gpu_check_host.cpp"
    found = sorted((ROOT / "tests" / "gpu").glob("*.cpp"))
    text = "".join(f'#include "gpu/{source.name}"\n' for source in found)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def parse_host_code(source: Path, nvcc: str) -> list[str]:
    """Parses host code with the CUDA runtime's headers; returns its faults."""
    flags = "-fsyntax-only,-Wall,-Wextra,-Wconversion,-Wno-restrict,-Werror"
    command = [nvcc, "-std=c++20", f"-Xcompiler={flags}", f"-I{ROOT / 'csrc'}"]
    command += [f"-I{ROOT / 'tests'}", "-c", str(source), "-o", os.devnull]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return [f"tests/gpu: {result.stdout}{result.stderr}"]
    return []


def check(source: Path, nvcc: str) -> list[str]:
    """Compiles a source for its architectures; returns its faults."""
    if source.suffix == ".cpp":
        return parse_host_code(source, nvcc)
    name = str(source.relative_to(ROOT))
    architectures = ALL_GPUS if name.startswith("csrc/") else [HOPPER]
    keep = BUILD / source.stem
    shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir(parents=True)
    command = [nvcc, *FLAGS, *architectures, "--keep", f"--keep-dir={keep}", "-c", str(source)]
    result = subprocess.run(
        [*command, "-o", str(keep / "object.o")], capture_output=True, text=True, cwd=keep
    )
    if result.returncode != 0:
        return [f"{name}: {result.stdout}{result.stderr}"]
    faults = [f"{name}: {fault}" for fault in faults_of_log(result.stdout + result.stderr)]
    for ptx in sorted(keep.glob("*.ptx")):
        faults += faults_of_ptx(f"{name}, {ptx.suffixes[0][1:]}", ptx.read_text(), NEEDED[name])
    shutil.rmtree(keep)
    return faults


def main() -> int:
    """Checks all sources; returns the exit status."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("GPU code: skipped, because there is no nvcc on PATH")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    checks = {
        stamp_of(source, version): functools.partial(check, source, nvcc)
        for source in [*sources(), host_source()]
    }
    return run("GPU code", checks)


if __name__ == "__main__":
    sys.exit(main())
