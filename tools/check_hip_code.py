"""Compiles the device code for AMD's GPUs, and checks what hipcc made of it: check_hip_code.py.

No GPU is needed, only hipcc. A warning is an error. Kernels must not spill vector registers, use a
stack, or access memory without knowing that it is global; they must move data 16 bytes at a time,
and acquire and release words for the whole system. Host code is only parsed. Without hipcc the
status is 77. A source that passed is not compiled again until a file that matters has changed.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from generated_code import ROOT, digest_of, library_sources, run

BUILD = ROOT / "build" / "hip-code"
SKIPPED = 77

WAVEFRONT = {"gfx90a": 64, "gfx1030": 32}  # threads, by architecture: CDNA 2 and RDNA 2

# hipcc adds options for the linker, which is not called. HIP deprecates contexts, and wants the
# result even of calls that clean up.
FLAGS = [
    *("-std=c++20", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
    *("-Wno-unused-command-line-argument", "-Wno-deprecated-declarations", "-Wno-unused-result"),
    *(f"-I{ROOT / 'csrc'}", "-x", "hip"),
]
HOST_FLAGS = ["--cuda-host-only", "-fsyntax-only", "--offload-arch=gfx90a"]
# With nvcc on PATH, hipcc would call that instead.
ENVIRONMENT = {**os.environ, "HIP_PLATFORM": "amd"}

GENERIC = re.compile(r"^.*\bflat_(?:load|store|atomic)\w*.*$", re.MULTILINE)
KERNEL = re.compile(r"^  - \.\w.*?(?=^  - \.\w|^\w|\Z)", re.MULTILINE | re.DOTALL)
KERNELS = "amdhsa.kernels:\n"

WIDE = ("global_load_dwordx4", "global_store_dwordx4")
RELAXED = (r"global_load_dwordx2 .* glc", "global_store_dwordx2")
# Instructions by which an acquire and a release reach other GPUs.
ORDER = {"gfx90a": ("buffer_invl2", "buffer_wbl2"), "gfx1030": ("buffer_gl1_inv",)}

# By source with kernels: what their code must match. All others have host code only.
NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "csrc/kernels/cuda/codec_code.cu": dict.fromkeys(WAVEFRONT, WIDE),
    "csrc/kernels/cuda/reduce_code.cu": dict.fromkeys(WAVEFRONT, WIDE),
    "csrc/engine/device/lane_code.cu": {name: WIDE + ORDER[name] for name in WAVEFRONT},
    "csrc/engine/device/small_code.cu": dict.fromkeys(WAVEFRONT, RELAXED),
}


def faults_of_kernel(kernel: str, wavefront: int) -> list[str]:
    """Returns what is wrong in a kernel's metadata."""

    def number(key: str) -> int:
        found = re.search(rf"^\s*(?:- )?\.{key}:\s*(\d+)$", kernel, re.MULTILINE)
        return int(found[1]) if found else -1

    expected = {
        "private_segment_fixed_size": (0, "uses a stack of {} bytes"),
        "vgpr_spill_count": (0, "spills {} vector registers"),
        "wavefront_size": (wavefront, "has wavefronts of {} threads"),
    }
    symbol = re.search(r"^\s*(?:- )?\.name:\s*(\S+)$", kernel, re.MULTILINE)
    name = symbol[1] if symbol else "a kernel without a name"
    return [
        f"{name} {text.format(number(key))}"
        for key, (right, text) in expected.items()
        if number(key) != right
    ]


def faults_of_code(name: str, code: str, wavefront: int, needed: Sequence[str]) -> list[str]:
    """Returns what is wrong in the assembly of a source, which must match all of `needed`."""
    found = [f"{name}: generic access: {line.strip()}" for line in GENERIC.findall(code)]
    kernels = KERNEL.findall(code.partition(KERNELS)[2])
    if not kernels:
        found.append(f"{name}: no kernel")
    for kernel in kernels:
        found += [f"{name}: {fault}" for fault in faults_of_kernel(kernel, wavefront)]
    return found + [f"{name}: no {pattern}" for pattern in needed if not re.search(pattern, code)]


def compile_with(hipcc: str, source: Path, options: Sequence[str]) -> str:
    """Compiles a source; returns what the compiler says if that fails, else nothing."""
    command = [hipcc, *FLAGS, *options, str(source)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    return f"{result.stdout}{result.stderr}" if result.returncode != 0 else ""


def check_host(hipcc: str, source: Path) -> list[str]:
    """Parses the host code of a source; returns its faults."""
    errors = compile_with(hipcc, source, HOST_FLAGS)
    return [f"{source.relative_to(ROOT)}, host: {errors}"] if errors else []


def check_kernels(hipcc: str, source: Path, architecture: str) -> list[str]:
    """Compiles the kernels of a source; returns their faults."""
    name = str(source.relative_to(ROOT))
    output = BUILD / f"{source.stem}-{architecture}.s"
    device = ("--cuda-device-only", "-S", f"--offload-arch={architecture}", "-o", str(output))
    errors = compile_with(hipcc, source, device)
    if errors:
        return [f"{name}, {architecture}: {errors}"]
    code = output.read_text()
    output.unlink()
    needed = NEEDED[name][architecture]
    return faults_of_code(f"{name}, {architecture}", code, WAVEFRONT[architecture], needed)


def main() -> int:
    """Checks all sources; returns the exit status."""
    hipcc = shutil.which("hipcc")
    if hipcc is None:
        print("HIP code: skipped, because there is no hipcc on PATH (Debian: apt install hipcc)")
        return SKIPPED
    BUILD.mkdir(parents=True, exist_ok=True)
    asked = [hipcc, "--version"]
    version = subprocess.run(
        asked, capture_output=True, text=True, check=True, env=ENVIRONMENT
    ).stdout
    checks = {}
    for source in library_sources():
        stamp = f"{source.stem}-{digest_of(Path(__file__), source, version)}"
        checks[BUILD / f"{stamp}-host.passed"] = functools.partial(check_host, hipcc, source)
        for architecture in NEEDED.get(str(source.relative_to(ROOT)), ()):
            checks[BUILD / f"{stamp}-{architecture}.passed"] = functools.partial(
                check_kernels, hipcc, source, architecture
            )
    return run("HIP code", checks)


if __name__ == "__main__":
    sys.exit(main())
