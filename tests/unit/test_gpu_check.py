"""The GPU check says when it checked nothing, and its report hides no failure."""

import subprocess
import sys
from pathlib import Path

import gpu_check
import gpu_torch
import pytest
from gpu_check import Output, Step
from gpu_report import Line, Machine, Result, parse, render, shown

MACHINE = Machine("driver 1", "compiler 2", "today", "a command", "a commit")
STEP = Step("a step", "section", 20)


def test_a_machine_without_a_gpu_checks_nothing(tmp_path: Path) -> None:
    if not gpu_check.why_no_gpu():
        pytest.skip("this machine has a GPU")
    report = tmp_path / "report.md"
    command = [sys.executable, str(gpu_check.ROOT / "tools/gpu_check.py"), "--report", str(report)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 77
    assert result.stdout.startswith("gpu-check: no GPU, so nothing was checked: ")
    assert not report.exists()


def test_the_program_says_that_there_is_no_gpu() -> None:
    program = gpu_check.ROOT / "build/gpu-check" / gpu_check.PROGRAM
    if not gpu_check.why_no_gpu():
        pytest.skip("this machine has a GPU")
    if not program.exists():
        pytest.skip("not built: make gpu-check ARGS=--build-only")
    result = subprocess.run([program, "reduce"], capture_output=True, text=True)
    assert result.returncode == 77
    assert "no GPU, nothing was checked" in result.stdout
    assert subprocess.run([program, "no section"], capture_output=True).returncode == 2


def test_missing_tools_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpu_check.main(["--build-only"]) == 1
    assert "nvcc, cmake, ninja" in capsys.readouterr().out


def test_an_old_cmake_is_named(tmp_path: Path) -> None:
    script = tmp_path / "configure.cmake"
    included = gpu_check.ROOT / "cmake/cuda.cmake"
    script.write_text(
        f'set(CMAKE_VERSION 3.25.1)\nset(FASTGPU_CUDA ON CACHE STRING "")\ninclude({included})\n'
    )
    result = subprocess.run(["cmake", "-P", str(script)], capture_output=True, text=True)
    assert result.returncode != 0
    said = " ".join(result.stderr.split())
    assert "FASTGPU_CUDA=ON needs CMake 3.26 or newer, and this is 3.25.1" in said


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--build-onl"])


def test_lines_are_told_from_other_text() -> None:
    assert parse("ok\ta check\t3 cases\n") == Line("ok", ("a check", "3 cases"))
    assert parse("========= ERROR SUMMARY: 0 errors\n") is None
    assert parse("ok\ta check\n") is None
    rate = parse("rate\ta kernel\t2 GB/s\t50 %\t95 %\tmissed\n")
    assert rate is not None
    assert shown(rate) == "rate a kernel: 2 GB/s, 50 % of the copy; target 95 %: missed"
    copy = parse("rate\ta copy\t4 GB/s\t\t\t\n")
    assert copy is not None
    assert shown(copy) == "rate a copy: 4 GB/s"


def script(folder: Path, text: str) -> list[str]:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def kinds(result: Result) -> list[str]:
    return [line.kind for line in result.lines]


def test_a_step_that_passes(tmp_path: Path) -> None:
    command = script(tmp_path, r"printf 'ok\ta\tb\nend\tsection\n'")
    assert kinds(gpu_check.run(STEP, command, 20)) == ["ok"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"printf 'ok\ta\tb\n'", ["ok", "FAIL"]),  # not complete
        (r"printf 'ok\ta\tb\n'; kill -SEGV $$", ["ok", "FAIL"]),
        (r"printf 'ok\ta\tb\nend\tsection\n'; exit 9", ["ok", "FAIL"]),  # a sanitizer's finding
        (r"printf 'FAIL\ta\tb\nend\tsection\n'; exit 1", ["FAIL"]),
    ],
)
def test_a_step_that_fails(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert kinds(gpu_check.run(STEP, script(tmp_path, text), 20)) == expected


def test_a_step_that_hangs_is_ended(tmp_path: Path) -> None:
    result = gpu_check.run(STEP, script(tmp_path, r"printf 'ok\ta\tb\n'; sleep 60"), 0.3)
    assert kinds(result) == ["ok", "FAIL"]
    assert "did not end" in result.lines[-1].fields[1]


def test_a_sanitizer_is_asked_to_fail() -> None:
    step = Step("lanes under memcheck", "lanes", 20, "memcheck")
    command = gpu_check.command_of(step, Path("program"), "/bin/sanitizer")
    assert command[:3] == ["/bin/sanitizer", "--tool", "memcheck"]
    assert "--error-exitcode" in command
    assert command[-2:] == ["lanes", "--reduced"]
    complete = Output(lines=[], other=["0 errors"], complete=True)
    assert gpu_check.verdict_of(step, complete, 9, True) is not None
    passed = gpu_check.verdict_of(step, complete, 0, True)
    assert passed == Line("ok", (step.title, "0 errors"))


def test_the_report_has_failures_and_what_did_not_run() -> None:
    results = [
        Result("GPU", [Line("ok", ("GPU", "a GPU"))]),
        Result("lanes", [Line("FAIL", ("ring", "1 | 2")), Line("skip", ("tree", "no tool"))]),
        Result("rates", [Line("rate", ("kernel", "f", "s", "t", "missed"))]),
    ]
    text = render(MACHINE, results, ["later"])
    assert "| GPU | a GPU |" in text
    assert "| lanes | ring | **failed** | 1 \\| 2 |" in text
    assert "| lanes | tree | did not run | no tool |" in text
    assert "| kernel | f | s | t | missed |" in text
    assert "- later" in text
    assert all(value in text for value in MACHINE)
    assert "None was measured." in render(MACHINE, results[:2], [])


@pytest.mark.parametrize("fails", [False, True])
def test_all_steps_end_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: "")
    text = r"""kind=ok; status=0
[ "$1" = small ] && [ NAME = True ] && kind=FAIL && status=1
printf "$kind\t$1 check\tdetail\nend\t$1\n"; exit $status"""
    program = Path(script(tmp_path, text.replace("NAME", str(fails)))[0])
    report = tmp_path / "results" / "report.md"
    monkeypatch.setattr(gpu_check, "why_no_torch", lambda: "no torch here")
    extension = gpu_check.Extension(tmp_path, "native")
    assert gpu_check.run_all(program, extension, True, report, MACHINE) is not fails
    written = report.read_text()
    assert "| lanes under racecheck | lanes under racecheck | did not run |" in written
    assert "| reduce check | passed | detail |" in written
    assert ("| small check | **failed** | detail |" in written) is fails
    assert "| rates | rates check | passed | detail |" in written  # after the failure, too
    assert "| tensors in torch | tensors in torch | did not run | no torch here |" in written
    assert "Did not run" not in written


def test_every_section_of_the_program_is_run() -> None:
    text = (gpu_check.ROOT / "tests/gpu/main.cpp").read_text()
    listed = text[text.index("kSections{") : text.index("int run(")]
    sections = {step.section for step in gpu_check.STEPS if not step.through_torch}
    for section in sections:
        assert f'"{section}"' in listed
    assert listed.count("Section{") == len(sections)
    through_torch = {step.section for step in gpu_check.STEPS if step.through_torch}
    assert through_torch == set(gpu_torch.SECTIONS)


def test_outcomes_of_tests_become_lines() -> None:
    output = """..F [100%]
PASSED tests/process/test_devices.py::test_device[order of streams]
FAILED tests/process/test_devices.py::test_lost_rank - AssertionError: rank 0
SKIPPED [1] tests/process/test_devices.py:9: no reason
1 failed, 1 passed"""
    assert gpu_torch.outcomes(output) == [
        ("ok", "test_device[order of streams]", "passed"),
        ("FAIL", "test_lost_rank", "AssertionError: rank 0"),
    ]


def test_rows_that_failed_or_are_wrong_are_faults() -> None:
    row = {"collective": "reduce", "size_bytes": 8, "wrong": 0, "error": None}
    rows = [row, row | {"wrong": 3}, row | {"error": "PeerLostError: rank 1"}]
    assert gpu_torch.faults_of(rows) == [
        "reduce of 8 bytes: 3 wrong elements",
        "reduce of 8 bytes: PeerLostError: rank 1",
    ]


@pytest.mark.parametrize(("time_us", "verdict"), [(100.0, "met"), (200.0, "missed")])
def test_a_rate_is_a_share_of_the_traffic_bound(
    capsys: pytest.CaptureFixture[str], time_us: float, verdict: str
) -> None:
    size = gpu_torch.MEASURED_BYTES
    row = {"size_bytes": size, "backend": "fastgpu", "timing": {"p50_us": time_us}}
    gpu_torch.report(row, 2, copied=4 * size / 80)  # the traffic takes 80 us
    line = parse(capsys.readouterr().out)
    assert line is not None
    assert line.fields[2:] == (f"{80 / time_us:.0%}", "70%", verdict)
