"""Compares collectives of fastgpu with those of gloo and of every MPI on this machine.

    python bench/peers.py [--ranks 2,4,8] [--rounds 3] [--mpi NAME=MPICC,MPIEXEC] [--only PATTERN]

It builds fastgpu's own benchmark, and bench/mpi_collectives.c with each MPI compiler, and runs all
programs in every round. The speed of a shared machine drifts, so only times of the same round are
compared, and a ratio is the median over the rounds. The programs are:

- `private` and `symmetric`: fastgpu below torch, with buffers in private or symmetric memory;
- `fastgpu` and `gloo`: the backends, called through torch.distributed;
- the MPIs, called from C and, as `NAME behind torch`, from the same Python calls as the backends;
- `floor`: the least time that two processes need (bench/bounds.cpp).

Each rank is bound to its share of the processors, as MPI's launchers do.

`--before CHECKOUT` compares with another checkout of fastgpu instead, in which
`cmake --build --preset release` has built fastgpu_bench_core. The page is then
bench/results/before_after.md.

It writes a Markdown page, and the rows to build/bench/peers.json; --append adds rounds to them. An
MPI outside the PATH is named by --mpi: intel=/opt/intel/mpi/bin/mpicc,/opt/intel/mpi/bin/mpiexec.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers_report import BEFORE, BEHIND_TORCH, write_changes, write_report

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "bench"
RESULTS = ROOT / "bench" / "results"
CORE = ROOT / "build" / "release" / "bench" / "fastgpu_bench_core"
BOUNDS = CORE.with_name("fastgpu_bench_bounds")
LINE = re.compile(r"@@ (\{.*\})\s*$", re.MULTILINE)

ALL_REDUCE_BYTES = [8, 256, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 128 << 20]
SHORT_FLOAT_BYTES = [4 << 10, 64 << 10, 1 << 20, 16 << 20]
OTHER_BYTES = [4 << 10, 1 << 20, 64 << 20]
ENTRIES = [
    *(f"all_reduce:float32:{size}" for size in ALL_REDUCE_BYTES),
    *(
        f"all_reduce:{dtype}:{size}"
        for dtype in ("bfloat16", "float16")
        for size in SHORT_FLOAT_BYTES
    ),
    *(
        f"{name}:float32:{size}"
        for name in ("broadcast", "all_gather", "reduce_scatter", "all_to_all")
        for size in OTHER_BYTES
    ),
]

# Compiler, launcher, and the Debian packages that contain them.
KNOWN_MPIS = {
    "openmpi": ("mpicc.openmpi", "mpirun.openmpi", "libopenmpi-dev openmpi-bin"),
    "mpich": ("mpicc.mpich", "mpiexec.mpich", "libmpich-dev mpich"),
}


@dataclass(frozen=True)
class Peer:
    """A program that measures entries and prints a line of JSON for each.

    Attributes:
        name: The name in the report.
        command: The first words of its command line; `{ranks}` stands for the number of ranks.
        environment: Variables to set.
        oversubscribe: Further words if there are more ranks than cores.
        program: The words after those.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    oversubscribe: Sequence[str] = ()
    program: Sequence[str] = ()

    def words(self, ranks: int, options: Sequence[str], entries: Sequence[str]) -> list[str]:
        """Returns the command line that measures `entries`."""
        more = self.oversubscribe if ranks > len(os.sched_getaffinity(0)) else ()
        filled = [word.format(ranks=ranks) for word in self.command]
        return [*filled, *more, *self.program, *options, *entries]


def build_own() -> None:
    """Compiles fastgpu's benchmarks; without cmake, uses those that exist."""
    if shutil.which("cmake"):
        environment = {"CMAKE_GENERATOR": "Ninja"} if shutil.which("ninja") else {}
        for words in (
            ["--preset", "release", "--log-level=WARNING"],
            ["--build", "--preset", "release", "--target", CORE.name, BOUNDS.name],
        ):
            subprocess.run(
                ["cmake", *words],
                cwd=ROOT,
                env=os.environ | environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
    if not (CORE.exists() and BOUNDS.exists()):
        raise SystemExit(f"{CORE} does not exist, and cmake is missing to build it")


def mpi_peers(name: str, compiler: str, launcher: str) -> list[Peer]:
    """Compiles for an MPI; returns the programs that call it from C and behind torch."""
    BUILT.mkdir(parents=True, exist_ok=True)
    program = BUILT / f"mpi_collectives_{name}"
    library = BUILT / f"mpi_library_{name}.so"
    home = Path(shutil.which(compiler) or compiler).parent.parent
    environment = {}
    if home != Path("/usr"):  # not installed by the system, so it needs its paths
        environment = {"PATH": f"{home}/bin:{os.environ['PATH']}", "I_MPI_ROOT": str(home)}
    for source, built, more in (
        ("mpi_collectives.c", program, []),
        ("mpi_library.c", library, ["-shared", "-fPIC"]),
    ):
        words = [compiler, "-O2", *more, str(ROOT / "bench" / source), "-o", str(built)]
        subprocess.run([*words, f"-Wl,-rpath,{home}/lib"], env=os.environ | environment, check=True)
    version = subprocess.run(
        [launcher, "--version"], env=os.environ | environment, capture_output=True, text=True
    ).stdout
    is_open_mpi = "Open MPI" in version or "OpenRTE" in version
    command = [launcher, *(["--allow-run-as-root"] if is_open_mpi else []), "-n", "{ranks}"]
    oversubscribe = ["--oversubscribe"] if is_open_mpi else []
    rank = [sys.executable, str(ROOT / "bench" / "torch_rank.py"), "--mpi", f"{name}={library}"]
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        Peer(name, command, environment, oversubscribe, [str(program)]),
        Peer(f"{name}{BEHIND_TORCH}", command, environment | store, oversubscribe, rank),
    ]


def free_port() -> int:
    """Returns a TCP port of this host that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def find_peers(named: Sequence[str]) -> tuple[list[Peer], list[str]]:
    """Returns the programs that can run here, and how to get those that are missing."""
    core = [str(CORE), "--json", "--pin", "--ranks", "{ranks}"]
    rank = [sys.executable, str(ROOT / "bench" / "torch_rank.py"), "--ranks", "{ranks}"]
    peers = [Peer("private", core), Peer("symmetric", [*core, "--symmetric"]), Peer("torch", rank)]
    missing = []
    found = dict(text.split("=", 1) for text in named)
    for name, (compiler, launcher, package) in KNOWN_MPIS.items():
        if name in found:
            continue
        if shutil.which(compiler) and shutil.which(launcher):
            found[name] = f"{compiler},{launcher}"
        else:
            missing.append(f"{name}: apt-get install {package}")
    if not any("intel" in name for name in found):
        missing.append("Intel MPI: pip install impi-rt impi-devel, then --mpi intel=MPICC,MPIEXEC")
    for name, programs in found.items():
        compiler, _, launcher = programs.partition(",")
        peers += mpi_peers(name, compiler, launcher)
    return peers, missing


def versions(before: Path) -> list[Peer]:
    """Returns the core benchmarks of this checkout and of `before`."""
    other = before / CORE.relative_to(ROOT)
    if not other.exists():
        raise SystemExit(f"{other} does not exist; build the target {CORE.name} there")
    options = ["--json", "--pin", "--ranks", "{ranks}"]
    return [
        Peer(f"{kind}{suffix}", [str(core), *options, *more])
        for kind, more in (("private", ()), ("symmetric", ("--symmetric",)))
        for core, suffix in ((CORE, ""), (other, BEFORE))
    ]


def run(words: Sequence[str], environment: dict[str, str], limit: float) -> tuple[str, str]:
    """Runs a program; returns the output, and the reason of a failure ("" for success)."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            words,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        why = ""
        try:
            if process.wait(limit):
                why = f"exit {process.returncode}"
        except subprocess.TimeoutExpired:
            why = f"not finished after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read(), why


def measure(
    peers: Sequence[Peer], ranks: int, round_: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yields the rows of one round; reports failed programs on standard error."""
    entries = [entry for entry in ENTRIES if re.search(arguments.only, entry)]
    options = ["--seconds", str(arguments.seconds), *(["--touch"] if arguments.touch else [])]
    sizes = [entry.rsplit(":")[-1] for entry in entries if entry.startswith("all_reduce:float32")]
    jobs = [(peer.name, peer.words(ranks, options, entries), peer.environment) for peer in peers]
    if ranks == 2 and sizes and not arguments.before:
        floor = [str(BOUNDS), "--seconds", str(arguments.seconds), *sizes]
        jobs.append(("floor", floor, {}))
    for name, words, environment in jobs if round_ % 2 == 0 else reversed(jobs):
        output, why = run(words, environment, arguments.limit)
        if why:
            tail = " | ".join(output.splitlines()[-3:])
            print(f"{name}, {ranks} ranks: {why}: {tail[-300:]}", file=sys.stderr)
        for text in LINE.findall(output):
            row = json.loads(text)
            peer = f"floor_{row['kind']}" if "kind" in row else row.get("peer", name)
            if not row["ok"]:
                raise SystemExit(f"{peer}: {row['op']} of {row['bytes']} bytes gave a wrong result")
            yield row | {"peer": peer, "ranks": ranks, "round": round_}


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="2,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="per entry, program and round")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a program in a round")
    parser.add_argument(
        "--only",
        default="",
        metavar="PATTERN",
        help="a regular expression that entries COLLECTIVE:DTYPE:BYTES must contain",
    )
    parser.add_argument("--peers", default="", metavar="A,B", help="only these programs")
    parser.add_argument("--mpi", action="append", default=[], metavar="NAME=MPICC,MPIEXEC")
    parser.add_argument("--touch", action="store_true", help="write the inputs before each call")
    parser.add_argument("--append", action="store_true", help="add rounds to those of the last run")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="compare with this version")
    parser.add_argument("--out", type=Path, help="the page (default: in bench/results)")
    return parser.parse_args()


def main() -> int:
    """Builds, measures, writes."""
    arguments = parse()
    build_own()
    if arguments.before:
        peers, missing = versions(arguments.before), []
    else:
        peers, missing = find_peers(arguments.mpi)
    wanted = arguments.peers.split(",") if arguments.peers else [peer.name for peer in peers]
    peers = [peer for peer in peers if peer.name in wanted]
    for text in missing:
        print(f"missing: {text}", file=sys.stderr)
    BUILT.mkdir(parents=True, exist_ok=True)
    kept = BUILT / ("before.json" if arguments.before else "peers.json")
    rows: list[dict[str, Any]] = []
    if arguments.append and kept.exists():
        rows = json.loads(kept.read_text())
    first = 1 + max((row["round"] for row in rows), default=-1)
    for round_ in range(first, first + arguments.rounds):
        for ranks in (int(text) for text in arguments.ranks.split(",")):
            rows.extend(measure(peers, ranks, round_, arguments))
            print(f"round {round_}, {ranks} ranks: done", file=sys.stderr)
            kept.write_text(json.dumps(rows))
    rows.sort(key=lambda row: ENTRIES.index(f"{row['op']}:{row['dtype']}:{row['bytes']}"))
    out = arguments.out or RESULTS / ("before_after.md" if arguments.before else "peers.md")
    if arguments.before:
        write_changes(out, rows)
    else:
        write_report(out, rows, missing)
    print(out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
