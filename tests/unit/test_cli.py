"""The command's help, its version, and its errors for wrong arguments."""

import subprocess
import sys

import pytest
import torch.distributed as dist

import fastgpu_comm
from fastgpu_comm.cli import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == fastgpu_comm.__version__


def test_reading_arguments_needs_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys\n"
        "from fastgpu_comm.cli.main import build_parser\n"
        "build_parser()\n"
        "print([m for m in ('matplotlib', 'tensorboard', 'rich') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "4z"], "'4z' is not a size"),
        (["--dtype", "float31"], "'float31' is unknown; the choice is float32"),
        (["--redop", "sum,sum"], "not a list of different names"),
        (["-f", "2", "-i", "8"], "not allowed with"),
    ],
)
def test_arguments_that_cannot_be_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "all_reduce", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "8M", "-e", "1K"], "is above the last size"),
        (["--backend", "gloo,nope"], "no backend 'nope'"),
        (["--plot", "x.foo"], "x.foo is not a picture file: its suffix must be one of .*png"),
        (["--backend", "gloo", "--root", "2"], "root 2 is not one of the 2 ranks"),
        (["--backend", "gloo", "--nproc", "1"], "1 ranks cannot communicate"),
        (["--backend", "gloo", "--dtype", "float32", "--redop", "bxor"], "bxor is for integers"),
        (["--backend", "gloo", "--json", "no/such/folder.json"], "no folder no/such"),
        (["--backend", "gloo", "-e", "8", "--dtype", "complex128"], "no size has an element"),
    ],
)
def test_arguments_that_contradict_each_other(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["bench", "all_reduce", *arguments])


def test_a_world_of_nobody_is_one_complaint() -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "all_reduce", "--backend", "gloo", "--nproc", "0"])
    assert str(end.value).splitlines() == [
        "fastgpu-comm bench: 0 ranks cannot communicate: use 2 ranks or more"
    ]


@pytest.mark.parametrize("known", [True, False])
def test_a_backend_that_torch_lacks_is_named_with_those_it_has(
    known: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "lacking"
    if known:  # as nccl where torch was built without CUDA
        monkeypatch.setattr(dist.Backend, "backend_list", [*dist.Backend.backend_list, name])
    monkeypatch.setattr(dist, "is_backend_available", lambda backend: backend != name)
    assert main(["train", "--backend", name]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("fastgpu-comm train: torch has no backend 'lacking' here; it has gloo")
    assert "fastgpu" in said.split("it has")[1]
    assert "undefined" not in said
    with pytest.raises(SystemExit, match=r"no backend 'lacking' here; it has gloo"):
        main(["bench", "all_reduce", "--backend", name])


def test_help_is_for_users(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Measures, tries out and simulates" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for default in ("8", "64M", "fastgpu,gloo", "float32", "sum"):
        assert f"(default: {default})" in told
