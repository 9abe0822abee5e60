"""The examples run as they say: two ranks under torchrun, over fastgpu, and they learn."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.integrations import INTEGRATIONS

EXAMPLES = Path(__file__).parents[2] / "examples"

# The last line of each example, and a loss that a model which learned nothing does not reach.
LAST_LINES = {
    "ddp.py": (r"step 500  loss ([\d.]+)", 0.01),
    "ddp_codec.py": (r"step 500  loss ([\d.]+)", 0.01),
    "trainer.py": (r"step 600, evaluation loss ([\d.]+)", 0.5),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LAST_LINES)


def test_every_integration_is_run_by_make_integrations() -> None:
    programs = {path.name for path in (EXAMPLES / "integrations").iterdir()}
    others = {"requirements.txt", "slurm.sh", "kubernetes.yaml"}
    assert {integration.program for integration in INTEGRATIONS} | others == programs


@pytest.mark.parametrize("command", ["ddp.py", "ddp_codec.py", "ddp_codec.py auto"])
def test_ddp(tmp_path: Path, command: str) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program, *arguments = command.split()
    result = subprocess.run(
        [*torchrun, str(EXAMPLES / program), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    wording, untrained = LAST_LINES[program]
    found = re.findall(wording, result.stdout)
    assert len(found) == 1, result.stdout
    assert float(found[0]) < untrained
    if command == "ddp_codec.py":
        exact, encoded = map(int, re.findall(r"(\d+) bytes, (\d+) encoded", result.stdout)[0])
        assert encoded < 0.3 * exact


def test_the_trainers_commands_train_one_after_another(tmp_path: Path) -> None:
    page = (EXAMPLES / "trainer.py").read_text().split('"""')[1]
    commands = re.findall(r"^    (?=python|torchrun)(.*?)(?:  .*)?$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        program, *arguments = command.replace("examples", str(EXAMPLES)).split()
        if program == "torchrun":
            arguments = ["-m", "torch.distributed.run", "--standalone", *arguments]
        result = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert result.returncode == 0, result.stderr
        assert re.search(LAST_LINES["trainer.py"][0], result.stdout), result.stdout
