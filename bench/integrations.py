"""Runs the programs of examples/integrations on gloo and on fastgpu, and compares their losses.

    make integrations [ARGS='accelerate lightning']

Each program runs on 2 ranks: on gloo, its default; with FASTGPU_REPLACE_GLOO=1; and with the
argument `fastgpu`, if the program takes the name of a backend. The losses must be equal to the last
digit, and each run must have used the expected backend. The table goes to
bench/results/integrations.md.

`make integrations` runs this in an environment of its own, with the versions in
examples/integrations/requirements.txt.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastgpu_comm.bench import markdown

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "examples" / "integrations"
RESULTS = Path(__file__).parent / "results" / "integrations.md"
LIMIT_SECONDS = 600
RESULT = re.compile(r"loss (\S+) on (\S+)")

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
EXECUTE_NOTEBOOK = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""))
"""
NOTEBOOK = (sys.executable, "-c", EXECUTE_NOTEBOOK)

PAGE = """# Integrations

`make integrations` runs each program of examples/integrations on 2 ranks of one machine: on gloo,
with `FASTGPU_REPLACE_GLOO=1`, and with `fastgpu` as its argument if it takes one. A cell shows the
last loss, which must be equal to the last digit, and the time of the whole program, most of which
is imports. torch {torch}, Python {python}, {date}.

{table}"""


@dataclass(frozen=True)
class Integration:
    """A program, and how it is run.

    Attributes:
        package: The package that the program uses. The table shows its version.
        program: The file in examples/integrations.
        command: What runs the file.
        named: The program takes the name of a backend.
        arguments: The program's arguments before that name; FOLDER is an empty folder.
        must_print: A text that the output must contain beside the loss.
    """

    package: str
    program: str
    command: Sequence[str] = TORCHRUN
    named: bool = True
    arguments: Sequence[str] = ()
    must_print: str = ""


INTEGRATIONS = (
    Integration("accelerate", "accelerate_loop.py", named=False),
    Integration("transformers", "transformers_trainer.py", named=False),
    Integration("lightning", "lightning_ddp.py"),
    Integration("lightning", "lightning_fsdp2.py"),
    Integration("ray", "ray_train.py", command=(sys.executable,)),
    Integration("deepspeed", "deepspeed_cpu.py"),
    Integration("pytorch-ignite", "ignite_loop.py", named=False),
    Integration(
        "torch",
        "elastic.py",
        command=(*TORCHRUN, "--max-restarts=1"),
        arguments=("FOLDER/checkpoint.pt",),
        must_print="resumed at step 40",
    ),
    Integration("ipykernel", "notebook.ipynb", command=NOTEBOOK, named=False),
)


@dataclass(frozen=True)
class Outcome:
    """How one run of a program ended: with a loss, or with an error."""

    loss: str = ""
    seconds: float = 0.0
    error: str = ""


def run(integration: Integration, backend: str, replaced: bool = False) -> Outcome:
    """Runs a program and checks which backend it used.

    Args:
        integration: The program.
        backend: The backend to name in its arguments, or "".
        replaced: Whether FASTGPU_REPLACE_GLOO is 1.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(Path(sys.prefix) / "torch_extensions"),  # what DeepSpeed builds
        "FASTGPU_REPLACE_GLOO": "1" if replaced else "0",
    }
    if backend in ("", "gloo") and not replaced:
        # Otherwise gloo finds the addresses of the lost ranks when torchrun starts all again.
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        arguments = [argument.replace("FOLDER", folder) for argument in integration.arguments]
        command = [*integration.command, str(PROGRAMS / integration.program), *arguments]
        start = time.monotonic()
        process = subprocess.Popen(
            command + ([backend] if backend else []),
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its ranks
            _, errors = process.communicate()
            return Outcome(error=f"did not end within {LIMIT_SECONDS} s\n{errors}")
        seconds = time.monotonic() - start
    found = RESULT.findall(output)
    if process.returncode != 0 or len(found) != 1 or integration.must_print not in output:
        return Outcome(error=f"status {process.returncode}\n{output}\n{errors}")
    loss, used = found[0]
    expected = "fastgpu" if replaced or backend else "gloo"
    if not used.startswith(f"cpu:{expected}"):
        return Outcome(error=f"used {used} instead of {expected}")
    return Outcome(loss, seconds)


def row(integration: Integration) -> tuple[list[str], bool]:
    """Runs a program in each way; returns its row of the table, and whether all went well."""
    package = f"{integration.package} {version(integration.package)}"
    outcomes = {"gloo": run(integration, ""), "replaced": run(integration, "", replaced=True)}
    if integration.named:
        outcomes["named"] = run(integration, "fastgpu")
    gloo = outcomes["gloo"]
    cells, passed = [package, integration.program], True
    for way in ("gloo", "replaced", "named"):
        outcome = outcomes.get(way)
        if outcome is None:
            cells.append("-")
            continue
        good = not outcome.error and outcome.loss == gloo.loss
        passed = passed and good
        cells.append(f"{outcome.loss} ({outcome.seconds:.0f} s)" if good else "FAILED")
        if not good:
            what = outcome.error or f"the loss is {outcome.loss}, and {gloo.loss} on gloo"
            print(f"{integration.program}, {way}: {what}", file=sys.stderr, flush=True)
    return cells, passed


def main() -> int:
    """Runs the chosen programs, writes the table if all were chosen, and returns the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("packages", nargs="*", help="packages to run; by default all")
    chosen = parser.parse_args().packages
    rows, passed = [], True
    for integration in INTEGRATIONS:
        if chosen and integration.package not in chosen:
            continue
        try:
            cells, good = row(integration)
        except PackageNotFoundError:
            cells, good = [integration.package, integration.program, *["not installed"] * 3], True
        print(" | ".join(cells), flush=True)
        rows.append(cells)
        passed = passed and good
    if not chosen:
        RESULTS.write_text(page(rows))
    return 0 if passed else 1


def page(rows: Sequence[Sequence[str]]) -> str:
    """Returns the Markdown page with the table."""
    head = ("package", "program", "gloo", "FASTGPU_REPLACE_GLOO=1", "named fastgpu")
    return PAGE.format(
        torch=version("torch"),
        python=sys.version.split()[0],
        date=time.strftime("%d %B %Y"),
        table=markdown.table(head, rows, left=2),
    )


if __name__ == "__main__":
    sys.exit(main())
