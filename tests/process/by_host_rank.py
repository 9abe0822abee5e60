"""One rank of test_by_host.py: encoded all_reduces over several hosts with several ranks each.

The tensors are on the CPU and on the pretended device.

by_host_rank.py HOSTS [train]    HOSTS: the host of every rank, as digits: 00011
                                 train: also in DistributedDataParallel
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from tests.process import codec_checks, ddp_codec_checks, device_checks, netns

import fastgpu_comm

COUNTER = Path(f"/sys/class/net/{netns.INTERFACE}/statistics/tx_bytes")
COUNT = 3 << 18  # divisible by every number of ranks here, in whole blocks
CALLS = 4


def wire_bytes(hosts: str, codec: str, algorithm: str) -> list[int]:
    """Returns the bytes that left each host in a call, by the counter of its interface."""
    options = fastgpu_comm.Options(codec=codec, algorithm=algorithm)
    group = dist.new_group(backend="fastgpu", pg_options=options)
    tensor = torch.ones(COUNT)
    dist.all_reduce(tensor, group=group)
    counters = []
    for calls in (0, CALLS):
        for _ in range(calls):
            dist.all_reduce(tensor, group=group)
        dist.barrier(group=group)
        counters.append(int(COUNTER.read_text()))
        dist.barrier(group=group)
    sent: list[int | None] = [None] * len(hosts)
    dist.all_gather_object(sent, (counters[1] - counters[0]) // CALLS)
    return [int(sent[hosts.index(host)] or 0) for host in sorted(set(hosts))]


def only_encoded_bytes_leave(hosts: str) -> None:
    """Between hosts travel the encoded shares, twice, and what TCP adds to them."""
    others = len(set(hosts)) - 1
    for codec in ("bf16", "int8", "int4"):
        whole = COUNT * codec_checks.BYTES_PER_ELEMENT[codec]
        expected = 2 * others / (others + 1) * whole
        by_host = wire_bytes(hosts, codec, "hierarchical")
        for sent in by_host:
            assert expected < sent < 1.1 * expected, (codec, sent, expected)
        flat = wire_bytes(hosts, codec, "direct")
        for host, sent in enumerate(flat):
            # Of m ranks: each sends a share to the ranks elsewhere, and the sum of its own.
            mine = hosts.count(str(host))
            shares = 2 * mine * (len(hosts) - mine) / len(hosts) * whole
            assert shares < sent < 1.1 * shares, (codec, sent, shares)


def main() -> None:
    """Runs the checks."""
    torch.set_num_threads(1)
    hosts, trains = sys.argv[1], sys.argv[2:] == ["train"]
    dist.init_process_group("fastgpu", timeout=timedelta(seconds=90))
    assert os.environ["FASTGPU_ALGORITHM"] == "hierarchical"
    # The device first: autograd counts devices at the first backward pass.
    device_checks.encoded_sums("hierarchical")
    if trains:
        for codec in ("int8", "fp16"):
            device_checks.encoded_training(codec, "nearest", None, "hierarchical")
    for codec in ("bf16", "int8", "int4"):
        codec_checks.sums(codec)
    codec_checks.not_finite("int8")
    only_encoded_bytes_leave(hosts)
    if trains:
        ddp_codec_checks.residuals_follow_parameters()
    print(f"rank {dist.get_rank()} is done")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
