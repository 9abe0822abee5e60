"""The command's help, its version, and its errors for wrong arguments."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

import fastgpu_comm
from fastgpu_comm.cli import main
from fastgpu_comm.cli.main import COMMANDS, build_parser


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
        (["all_redcue"], "there is no collective 'all_redcue'. Did you mean 'all_reduce'?"),
        (["all_reduce", "-b", "4z"], "'4z' is not a size"),
        (["all_reduce", "-e", "9" * 400], "is too large: the most is"),
        (["all_reduce", "--dtype", "float31"], "no dtype 'float31'. Did you mean 'float32'?"),
        (["all_reduce", "-o", "mean"], "no reduction 'mean'."),
        (["all_reduce", "--redop", "sum,sum"], "not a list of different reductions"),
        (["all_reduce", "-f", "2", "-i", "8"], "not allowed with"),
        (["all_reduce", "-f", "1"], "'1' is not a number above 1"),
        (["all_reduce", "-f", "nan"], "'nan' is not a number above 1"),
        (["all_reduce", "-f", "inf"], "'inf' is not a number above 1"),
        (["all_reduce", "-i", "0"], "'0' is not a size of at least 1 byte"),
        (["all_reduce", "-i", "1"], "gives over 4096 sizes"),
        (["all_reduce", "--nproc", "-1"], "'-1' is not a whole number from 1"),
        (["all_reduce", "--nproc", "9" * 5000], "is not a whole number from 1"),
        (["all_reduce", "--nproc", "1000000000"], "1000000000 ranks do not fit into the memory"),
        (["all_reduce", "--timeout", "1e300"], "is not a number of at least 1 and at most 1e+06"),
        (["all_reduce", "--budget", "-1"], "'-1' is not a number of at least 0"),
        (["all_reduce", "-n", "0"], "'0' is not a whole number from 1"),
        (["all_reduce", "-w", "x"], "'x' is not a whole number from 0"),
        (["all_reduce", "--bakend", "gloo"], "no flag '--bakend'. Did you mean '--backend'?"),
        (["all_reduce", "-q", "1"], "there is no flag '-q'."),
        ([], "the following arguments are required: COLLECTIVE"),
        (["all_reduce", "-b", "8M", "-e", "1K"], "is above the last size"),
        (["all_reduce", "--backend", "gloo,nope"], "no backend 'nope'"),
        (["all_reduce", "--backend", "glou"], "Did you mean 'gloo'?"),
        (
            ["all_reduce", "--plot", "x.foo"],
            "x.foo is not a picture file. Its suffix must be one of",
        ),
        (["all_reduce", "--plot", "x.pgn"], "Did you mean 'png'? Its suffix must be one of: "),
        (["all_reduce", "--dtype", "flaot"], "Did you mean 'float32'?"),
        (["all_reduce", "--backend", "gloo", "--root", "2"], "no rank 2 to be --root"),
        (["all_reduce", "--backend", "gloo", "--nproc", "1"], "use 2 ranks or more"),
        (["all_reduce", "--redop", "bxor"], "bxor is for integers"),
        (["all_reduce", "--json", "no/such/folder.json"], "cannot write no/such/folder.json"),
        (["all_reduce", "--json", "/proc/folder.json"], "cannot write /proc/folder.json"),
        (["all_reduce", "--report", "/proc/self/x"], "cannot make the folder /proc/self/x"),
        (["all_reduce", "-e", "8", "--dtype", "complex128"], "no size has an element"),
        (["all_reduce", "-b", "1T", "-e", "512T"], "more than the"),
        (["barrier", "--plot", "x.png"], "a barrier has no sizes to draw"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *arguments])
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("fastgpu-comm bench: ")
    assert message in line


def test_gpus_where_there_are_none_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "all_reduce", "--device", "cuda"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastgpu-comm bench: --device cuda needs a GPU that torch can use")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benhc"], "fastgpu-comm: there is no command 'benhc'. Did you mean 'bench'?"),
        ([], "fastgpu-comm: the following arguments are required: COMMAND"),
        (["env", "--jsno"], "fastgpu-comm env: there is no flag '--jsno'. Did you mean '--json'?"),
        (["env", "more"], "unrecognized arguments: more"),
    ],
)
def test_unknown_commands_and_flags_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("command", [["bench", "all_reduce"], ["train"]])
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2 in the environment"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set in the environment"),
    ],
)
def test_an_environment_that_makes_no_rank(
    command: list[str],
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if message in line and "torchrun" in line] != []


@pytest.mark.parametrize("command", [["bench", "all_reduce"], ["train"]])
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "FASTGPU_LANES",
            "99",
            "FASTGPU_LANES is '99', which is not allowed; set it to: auto, or 1 to 16",
        ),
        ("FASTGPU_LANE", "99", "the environment variable FASTGPU_LANE is not known; unset it"),
        ("FASTGPU_CODEC", "\udcff", "FASTGPU_CODEC is "),  # the byte 0xff, which is not UTF-8
    ],
)
def test_a_bad_variable_is_refused_before_ranks_start(
    command: list[str],
    variable: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [
        ("allreduce", "all_reduce"),
        ("all-reduce", "all_reduce"),
        ("ReduceScatter", "reduce_scatter"),
        ("alltoall", "all_to_all"),
        ("sendrecv", "send_recv"),
    ],
)
def test_other_spellings_are_taken(spelt: str, meant: str) -> None:
    parser, _ = build_parser()
    assert parser.parse_args(["bench", spelt]).collectives == [meant]


def test_the_flags_of_nccl_tests_are_taken() -> None:
    parser, _ = build_parser()
    flags = [
        "-b",
        "8",
        "-e",
        "128M",
        "-f",
        "2",
        "-n",
        "20",
        "-w",
        "5",
        "-d",
        "half",
        "-o",
        "max",
        "-r",
        "1",
    ]
    taken = parser.parse_args(["bench", "allreduce", *flags])
    assert (taken.begin, taken.end, taken.factor) == (8, 128 << 20, 2.0)
    assert (taken.iters, taken.warmup, taken.root) == (20, 5, 1)
    assert (taken.dtype, taken.redop) == (["float16"], ["max"])


@pytest.mark.parametrize("known", [True, False])
def test_a_backend_that_torch_lacks_is_named_with_those_it_has(
    known: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "lacking"
    if known:  # as nccl where torch was built without CUDA
        monkeypatch.setattr(dist.Backend, "backend_list", [*dist.Backend.backend_list, name])
    monkeypatch.setattr(dist, "is_backend_available", lambda backend: backend != name)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--backend", name])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("fastgpu-comm train: torch has no backend 'lacking' here; it has gloo")
    assert "fastgpu" in said.split("it has")[1]
    assert "undefined" not in said
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "all_reduce", "--backend", name])
    assert "no backend 'lacking' here; it has gloo" in capsys.readouterr().err


def test_help_is_for_users(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Measures, tries out and simulates" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for default in ("8", "64M", "fastgpu,gloo", "float32", "sum"):
        assert f"(default: {default})" in told


@pytest.mark.parametrize("name", [command.__name__.rpartition(".")[2] for command in COMMANDS])
def test_every_flag_is_explained(name: str) -> None:
    """With its unit or form as an upper-case word, and its default unless it only switches."""
    for action in build_parser()[1][name]._actions:
        assert action.help, action.option_strings
        takes_a_value = action.option_strings and action.nargs != 0
        if takes_a_value:
            assert isinstance(action.metavar, str)
            assert action.metavar == action.metavar.upper()
            assert action.default in (None, []) or "(default: " in action.help
