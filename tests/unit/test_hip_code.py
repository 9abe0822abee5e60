"""The check of the code for AMD's GPUs finds what it forbids, and says when it checks nothing."""

import subprocess
import sys
from pathlib import Path

import check_hip_code
import pytest
from check_hip_code import NEEDED, faults_of_code
from generated_code import ROOT, library_sources

KERNEL = """\
  - .args:
      - .offset:         0
        .size:           24
    .name:           {name}
    .private_segment_fixed_size: {stack}
    .sgpr_spill_count: 4
    .vgpr_spill_count: {spilled}
    .wavefront_size: {threads}
"""


Kernel = dict[str, object]


def code_of(*kernels: Kernel) -> str:
    right: Kernel = {"name": "sum", "stack": 0, "spilled": 0, "threads": 64}
    text = "".join(KERNEL.format(**{**right, **changed}) for changed in kernels)
    return (
        f"\tglobal_load_dwordx4 v[0:3], v4, s[0:1]\n---\namdhsa.kernels:\n{text}amdhsa.target: a\n"
    )


def faults(code: str, *needed: str) -> list[str]:
    return faults_of_code("a.cu", code, 64, needed)


def test_every_source_with_kernels_says_what_it_needs() -> None:
    names = {str(path.relative_to(ROOT)) for path in library_sources()}
    with_kernels = {name for name in names if not name.startswith("csrc/device/")}
    assert with_kernels == set(NEEDED)
    assert all(set(needed) == set(check_hip_code.WAVEFRONT) for needed in NEEDED.values())


def test_right_code_has_no_fault() -> None:
    assert faults(code_of({}), "global_load_dwordx4") == []
    assert faults(code_of({}, {"name": "copy"})) == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"stack": 16}, "copy uses a stack of 16 bytes"),
        ({"spilled": 2}, "copy spills 2 vector registers"),
        ({"threads": 32}, "copy has wavefronts of 32 threads"),
    ],
)
def test_a_wrong_kernel_is_found_wherever_it_stands(wrong: Kernel, text: str) -> None:
    wrong = {"name": "copy", **wrong}
    for code in (code_of(wrong, {}), code_of({}, wrong), code_of({}, wrong, {})):
        assert faults(code) == [f"a.cu: {text}"]


def test_metadata_that_is_not_there_is_a_fault() -> None:
    assert faults(code_of()) == ["a.cu: no kernel"]
    assert len(faults(code_of({}).replace("vgpr_spill_count", "other"))) == 1


def test_generic_accesses_are_found() -> None:
    for access in ("flat_load_dwordx4 v[0:3], v[4:5]", "flat_atomic_cmpswap_x2 v0, v1"):
        assert faults(f"\t{access}\n{code_of({})}") == [f"a.cu: generic access: {access}"]


def test_missing_instructions_are_found() -> None:
    relaxed = (
        "\tglobal_load_dwordx2 v[0:1], v2, s[0:1] glc\n\tglobal_store_dwordx2 v0, v1, s[0:1]\n"
    )
    assert faults(relaxed + code_of({}), *check_hip_code.RELAXED) == []
    assert len(faults(relaxed.replace(" glc", "") + code_of({}), *check_hip_code.RELAXED)) == 1
    assert len(faults(code_of({}), *check_hip_code.ORDER["gfx90a"])) == 2


def test_a_machine_without_hipcc_checks_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/check_hip_code.py")]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert result.returncode == 77
    assert result.stdout.startswith("HIP code: skipped, because there is no hipcc on PATH")


def test_what_the_compiler_says_is_reported(tmp_path: Path) -> None:
    hipcc = tmp_path / "hipcc"
    hipcc.write_text('#!/bin/sh\necho "$HIP_PLATFORM: a warning"; exit 1\n')
    hipcc.chmod(0o755)
    source = library_sources()[0]
    assert "amd: a warning" in check_hip_code.check_host(str(hipcc), source)[0]
    assert "amd: a warning" in check_hip_code.check_kernels(str(hipcc), source, "gfx90a")[0]
