"""Compares all_reduce between two hosts with gloo and with the speed of the link.

    python bench/net.py                           # every link
    python bench/net.py --rates 1gbit --end 16M   # one link, without the largest size
    python bench/net.py --rates 1gbit --write     # replace its lines in bench/results/net.md

The hosts are two network namespaces of this machine, joined by a virtual cable (veth); `tc` limits
the rate of each. Each host runs one rank of `fastgpu-comm bench`; fastgpu and gloo take turns in
the same processes. The reference is the time to send, at the link's rate, the bytes that an
all_reduce of two ranks must send each way. This needs root, or the capabilities of `ip netns`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.process import netns  # noqa: E402  found in ROOT

from fastgpu_comm.bench import markdown  # noqa: E402
from fastgpu_comm.bench.sizes import format_size, parse_size  # noqa: E402

PAGE = ROOT / "bench" / "results" / "net.md"
PORT = 29500  # free, because the namespaces are new
FACTOR = 4
# An Ethernet frame of 1514 bytes carries 1448 bytes over IPv4 and TCP with timestamps.
WIRE_BYTES_PER_BYTE = 1514 / 1448


@dataclass(frozen=True)
class Link:
    """A link between the hosts, and the sizes to measure on it.

    Attributes:
        rate: The rate as `tc` writes it, or "unlimited".
        bits_per_second: The same rate as a number; 0 if unlimited.
        burst: The bytes that a host may send ahead of the rate, enough to hide timer delays.
        begin_bytes: The first size, after 8 bytes.
        options: Options for `fastgpu-comm bench`: few calls on slow links.
    """

    rate: str
    bits_per_second: float
    burst: str
    begin_bytes: int
    options: tuple[str, ...]

    def reference_us(self, size_bytes: int) -> float | None:
        """Returns the time to send `size_bytes` each way, or None if the rate is unlimited."""
        if not self.bits_per_second:
            return None
        return size_bytes * 8 * WIRE_BYTES_PER_BYTE / self.bits_per_second * 1e6


QUICK = ("--budget", "1")
SLOW = ("--budget", "0.5", "--min-calls", "4", "--warmup", "1")
LINKS = {
    link.rate: link
    for link in (
        Link("unlimited", 0, "", 4 << 10, QUICK),
        Link("10gbit", 10e9, "2mb", 1 << 20, QUICK),
        Link("1gbit", 1e9, "256kb", 1 << 20, QUICK),
        Link("100mbit", 1e8, "128kb", 1 << 20, SLOW),
    )
}


@dataclass(frozen=True)
class Line:
    """One size on one link: the median time of a call in microseconds, by backend."""

    link: Link
    size_bytes: int
    times_us: dict[str, float]


def bench(
    hosts: Sequence[netns.Host], arguments: Sequence[str], backends: Sequence[str], results: Path
) -> list[dict[str, Any]]:
    """Runs `fastgpu-comm bench` with a rank on each host; returns its rows."""
    command = [sys.executable, "-m", "fastgpu_comm", "bench", "all_reduce", *arguments]
    command += ["--backend", ",".join(backends), "--json", str(results)]
    ranks = []
    for rank, host in enumerate(hosts):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(hosts)),
            "MASTER_ADDR": hosts[0].address,
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": netns.INTERFACE,
        }
        environment.setdefault("FASTGPU_LOG", "error")  # no warning that two hosts share a machine
        ranks.append(
            subprocess.Popen(
                host.command(command), env=environment, stdout=None if rank else sys.stderr
            )
        )
    try:
        statuses = [process.wait() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    if any(statuses):
        raise SystemExit(f"bench/net.py: the ranks ended with {statuses}")
    found: list[dict[str, Any]] = json.loads(results.read_text())["rows"]
    return found


def measure(link: Link, end_bytes: int, backends: Sequence[str]) -> list[Line]:
    """Measures 8 bytes and the sizes up to `end_bytes` on one link."""
    ranges = [(8, 8), (link.begin_bytes, end_bytes)]
    lines: dict[int, Line] = {}
    rate = link.rate if link.bits_per_second else None
    with (
        tempfile.TemporaryDirectory() as folder,
        netns.hosts(2, rate=rate, burst=link.burst) as hosts,
    ):
        for begin, end in ranges:
            sizes = ["-b", str(begin), "-e", str(end), "-f", str(FACTOR)]
            results = Path(folder) / "results.json"
            for row in bench(hosts, [*sizes, *link.options], backends, results):
                line = lines.setdefault(row["size_bytes"], Line(link, row["size_bytes"], {}))
                line.times_us[row["backend"]] = row["timing"]["p50_us"]
    return list(lines.values())


def rows(lines: Sequence[Line], backends: Sequence[str]) -> Iterator[list[str]]:
    """Yields the cells of the page's table."""
    for line in lines:
        reference = line.link.reference_us(line.size_bytes) if line.size_bytes > 8 else None
        mine = line.times_us[backends[0]]
        cells = [line.link.rate, format_size(line.size_bytes), _milliseconds(reference)]
        cells += [_milliseconds(line.times_us[backend]) for backend in backends]
        cells.append(f"{mine / reference:.3f}" if reference else "")
        cells += [f"{mine / line.times_us[other]:.3f}" for other in backends[1:]]
        yield cells


def kept(rates: Sequence[str]) -> Iterator[list[str]]:
    """Yields the cells in the written page of links other than `rates`."""
    for line in PAGE.read_text().splitlines() if PAGE.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in set(LINKS) - set(rates):
            yield cells


def page(table: Sequence[Sequence[str]], backends: Sequence[str]) -> str:
    """Returns the page."""
    head = ["link", "size", "reference", *backends, "over reference"]
    head += [f"over {other}" for other in backends[1:]]
    ordered = sorted(table, key=lambda row: list(LINKS).index(row[0]))
    return f"""\
# all_reduce between two hosts

    python bench/net.py --write

{markdown.machine_list()}
Two ranks, each in its own network namespace, reduce float32. Times are in milliseconds: the median
over the calls, where a call takes as long as its slowest rank. The backends took turns in the same
processes. The reference is the time to send the bytes each way at the link's rate. The ratios are
the times of {backends[0]} over the reference and over the other backends.

{markdown.table(head, ordered)}"""


def _milliseconds(time_us: float | None) -> str:
    return "" if time_us is None else f"{time_us / 1000:.4g}"


def main() -> None:
    """Measures the links in the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default=",".join(LINKS), help="default: %(default)s")
    parser.add_argument("--end", type=parse_size, default=parse_size("64M"), help="largest size")
    parser.add_argument("--backend", default="fastgpu,gloo", help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    rates = arguments.rates.split(",")
    unknown = [rate for rate in rates if rate not in LINKS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: the rates are {', '.join(LINKS)}")
    reason = netns.unavailable(shaped=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    backends = arguments.backend.split(",")
    lines = [line for rate in rates for line in measure(LINKS[rate], arguments.end, backends)]
    table = list(rows(lines, backends))
    print(page(table, backends))
    if arguments.write:
        PAGE.write_text(page([*kept(rates), *table], backends))


if __name__ == "__main__":
    main()
