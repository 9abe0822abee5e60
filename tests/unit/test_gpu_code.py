"""The check of the GPU code finds what it forbids."""

import check_gpu_code
from generated_code import ROOT


def test_every_source_says_what_it_needs() -> None:
    names = {str(path.relative_to(ROOT)) for path in check_gpu_code.sources()}
    assert names == set(check_gpu_code.NEEDED)


def test_a_stack_or_a_spill_is_found() -> None:
    clean = "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    assert check_gpu_code.faults_of_log(clean) == []
    for bad in ("40 bytes stack frame, 0 bytes", "0 bytes stack frame, 8 bytes spill stores"):
        assert len(check_gpu_code.faults_of_log(f"{clean}    {bad}\n{clean}")) == 1


def test_an_incoherent_load_is_found() -> None:
    ptx = "\tld.global.v4.u32 \t{%r1, %r2, %r3, %r4}, [%rd1];\n"
    assert check_gpu_code.faults_of_ptx("a.cu", ptx, ("ld.global.v4.u32",)) == []
    for load in ("ld.global.nc.u32", "ld.global.nc.v4.f32"):
        faults = check_gpu_code.faults_of_ptx("a.cu", f"{ptx}\t{load} \t%r1, [%rd1];\n", ())
        assert len(faults) == 1


def test_missing_instructions_are_found() -> None:
    needed = check_gpu_code.WIDE + check_gpu_code.ORDER
    assert len(check_gpu_code.faults_of_ptx("a.cu", "", needed)) == len(needed)
