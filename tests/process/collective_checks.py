"""Checks of the collectives, run by test_collectives.py on every rank."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from tests.process.reference import (
    ALL,
    OTHER_FP8,
    TORCH_VERSION,
    ops_of,
    reduce_op,
    reduced,
    same,
    values,
)

import fastgpu_comm

ByDType = Callable[[torch.dtype], None]
Check = Callable[[], None]

SIZES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (3, 5), (1000,), (30_011,))


def me_and_world() -> tuple[int, int]:
    """Returns this rank and the world size."""
    return dist.get_rank(), dist.get_world_size()


def all_reduce_bytes(count: int) -> float:
    """Returns the bytes that this rank sends to reduce so many float32 elements."""
    before = fastgpu_comm.stats()["bytes_sent"]
    dist.all_reduce(torch.ones(count))
    return fastgpu_comm.stats()["bytes_sent"] - before


def inputs(world: int, dtype: torch.dtype, *size: int) -> list[torch.Tensor]:
    """Returns every rank's input."""
    return [values(rank, dtype, *size) for rank in range(world)]


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the same numbers, with gaps in memory and the dimensions' order turned."""
    wide = torch.zeros((*reversed(tensor.shape), 2), dtype=tensor.dtype)
    view = wide[..., 0].permute(*reversed(range(tensor.dim())))
    view.copy_(tensor)
    assert tensor.numel() < 2 or not view.is_contiguous()
    return view


def all_reduce(dtype: torch.dtype) -> None:
    """Every reduction of a dtype, and every kind of shape."""
    rank, world = me_and_world()
    for name in ops_of(dtype):
        for size in SIZES if name == "SUM" else ((257,),):
            tensor = values(rank, dtype, *size)
            dist.all_reduce(tensor, reduce_op(name))
            same(tensor, reduced(name, inputs(world, dtype, *size)))


def reduce(dtype: torch.dtype) -> None:
    """To each root; the others keep their input."""
    rank, world = me_and_world()
    for root in range(world):
        for name in ("SUM", "PRODUCT"):
            tensor = values(rank, dtype, 700)
            dist.reduce(tensor, root, reduce_op(name))
            everyone = inputs(world, dtype, 700)
            same(tensor, reduced(name, everyone) if rank == root else everyone[rank])


def broadcast(dtype: torch.dtype) -> None:
    """From each root, every kind of shape."""
    rank, world = me_and_world()
    for root in range(world):
        for size in SIZES:
            tensor = values(rank, dtype, *size)
            dist.broadcast(tensor, root)
            same(tensor, values(root, dtype, *size))


def all_gather(dtype: torch.dtype) -> None:
    """Into a list, into one tensor, and coalesced."""
    rank, world = me_and_world()
    for size in SIZES:
        everyone = inputs(world, dtype, *size)
        parts = [torch.zeros_like(everyone[rank]) for _ in range(world)]
        dist.all_gather(parts, everyone[rank])
        for part, expected in zip(parts, everyone, strict=True):
            same(part, expected)
        if size:
            whole = torch.zeros((world * size[0], *size[1:]), dtype=dtype)
            dist.all_gather_into_tensor(whole, everyone[rank])
            same(whole.view(world, *size), stack(everyone))


def large_exchanges() -> None:
    """Parts too large for a ring, again and again in the same buffers, which change in between."""
    rank, world = me_and_world()
    count = 150_001
    mine, whole = torch.zeros(world * count), torch.zeros(world * count)
    for turn in range(4):
        mine.copy_(torch.arange(world).repeat_interleave(count) + 100 * rank + turn)
        dist.all_to_all_single(whole, mine)
        sent_to_me = 100 * torch.arange(world) + rank + turn
        same(whole, sent_to_me.repeat_interleave(count).float())
        dist.all_gather_into_tensor(whole, mine[:count])
        same(whole, (100 * torch.arange(world) + turn).repeat_interleave(count).float())


def stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    """torch.stack, for fp8 too."""
    bytes_of = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])
    return bytes_of.view(tensors[0].dtype).view(len(tensors), *tensors[0].shape)


def reduce_scatter(dtype: torch.dtype) -> None:
    """From a list, from one tensor."""
    rank, world = me_and_world()
    for name in ("SUM", "MAX") if not dtype.is_complex else ("SUM", "AVG"):
        whole = [values(peer, dtype, world, 311) for peer in range(world)]
        expected = reduced(name, [part[rank] for part in whole])
        result = torch.zeros(311, dtype=dtype)
        dist.reduce_scatter(result, list(whole[rank].unbind()), reduce_op(name))
        same(result, expected)
        result = torch.zeros(311, dtype=dtype)
        separate = [part.clone() for part in whole[rank].unbind()]
        dist.reduce_scatter(result, separate, reduce_op(name))
        same(result, expected)
        result = torch.zeros(311, dtype=dtype)
        dist.reduce_scatter_tensor(result, whole[rank].view(-1), reduce_op(name))
        same(result, expected)


def gather_and_scatter(dtype: torch.dtype) -> None:
    """To and from each root."""
    rank, world = me_and_world()
    everyone = inputs(world, dtype, 4, 25)
    for root in range(world):
        parts = [torch.zeros_like(everyone[0]) for _ in range(world)] if rank == root else None
        dist.gather(everyone[rank], parts, root)
        for part, expected in zip(parts or [], everyone, strict=False):
            same(part, expected)
        result = torch.zeros_like(everyone[0])
        dist.scatter(result, everyone if rank == root else None, root)
        same(result, everyone[rank])


def all_to_all(dtype: torch.dtype) -> None:
    """Even and uneven, one tensor and lists. Rank i sends i + j + 1 rows of value i to rank j."""
    rank, world = me_and_world()
    rows = [rank + peer + 1 for peer in range(world)]
    mine = values(rank, dtype, 1).view(torch.uint8)
    sent = mine.expand(sum(rows), 3, -1).contiguous().view(dtype).view(sum(rows), 3)
    result = torch.zeros_like(sent)
    dist.all_to_all_single(result, sent, rows, rows)
    expected = stack([values(peer, dtype, 1) for peer in range(world)])
    same(result[:, 0], expected[torch.arange(world).repeat_interleave(torch.tensor(rows)), 0])

    outputs = [torch.zeros(count, 3, dtype=dtype) for count in rows]
    dist.all_to_all(outputs, [sent[:count].clone() for count in rows])
    for peer, output in enumerate(outputs):
        same(output.view(-1)[:1], values(peer, dtype, 1))

    whole = [values(peer, dtype, world * 10) for peer in range(world)]
    result = torch.zeros(world * 10, dtype=dtype)
    dist.all_to_all_single(result, whole[rank])
    same(result.view(world, 10), stack([part.view(world, 10)[rank] for part in whole]))


def every_dtype_moves() -> None:
    """Those that are never reduced travel too, and say so when asked to sum."""
    rank, world = me_and_world()
    for dtype in (*ALL, *OTHER_FP8):
        parts = [torch.zeros(9, dtype=dtype) for _ in range(world)]
        dist.all_gather(parts, values(rank, dtype, 9))
        for peer, part in enumerate(parts):
            assert torch.equal(part.view(torch.uint8), values(peer, dtype, 9).view(torch.uint8))
    for dtype in OTHER_FP8:
        with pytest.raises(ValueError, match="convert"):
            dist.all_reduce(values(rank, dtype, 9))


def same_float8(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises unless both are the same bits, where any NaN equals any other.

    Before torch 2.13 its float8_e4m3fn overflowed to NaN, and not to the largest number.
    """
    bits = result.view(torch.uint8), expected.view(torch.uint8)
    allowed = result.float().isnan()
    if TORCH_VERSION < (2, 13) and result.dtype == torch.float8_e4m3fn:
        allowed |= result.float().abs() == torch.finfo(result.dtype).max
    different = (bits[0] != bits[1]) & ~(allowed & expected.float().isnan())
    assert not different.any(), (result[different][:5], expected[different][:5])


def float8_like_torch(dtype: torch.dtype) -> None:
    """Reductions are those of fp32, narrowed by torch: every pair of numbers, and every float16."""
    rank, world = me_and_world()
    assert world == 2
    codes = torch.arange(256, dtype=torch.uint8)
    rows, columns = codes.repeat_interleave(256).view(dtype), codes.repeat(256).view(dtype)
    wide = rows.float(), columns.float()
    expected = {
        "SUM": wide[0] + wide[1],
        "PRODUCT": wide[0] * wide[1],
        "MIN": torch.minimum(*wide),
        "MAX": torch.maximum(*wide),
        "AVG": (wide[0] / 2).to(dtype).float() + (wide[1] / 2).to(dtype).float(),
    }
    for name, result in expected.items():
        tensor = (rows, columns)[rank].clone()
        dist.all_reduce(tensor, reduce_op(name))
        if name in ("MIN", "MAX"):  # either of two zeros may be the result
            tensor, result = (tensor.float() + 0).to(dtype), result + 0
        same_float8(tensor, result.to(dtype))

    # Times the powers of two among the codes these factors are every float16 there is.
    numbers = codes.view(dtype)
    for power in (-15, 0, 8):
        factors = (1 + torch.arange(1024) / 1024) * 2.0**power
        mine = numbers if rank == 0 else torch.zeros(256).to(dtype)
        results = mine.repeat(1024, 1)
        works = [
            dist.all_reduce(result, dist._make_nccl_premul_sum(factor), async_op=True)
            for result, factor in zip(results, factors.tolist(), strict=True)
        ]
        for work in works:
            assert work is not None
            work.wait()
        products = numbers.float() * factors.unsqueeze(1)
        same_float8(results, (products.to(dtype).float() + 0).to(dtype))


def strided_tensors() -> None:
    """Tensors that are not contiguous give the same results, also if the ranks' layouts differ."""
    rank, world = me_and_world()
    everyone = inputs(world, torch.float32, 6, 7)
    total = reduced("SUM", everyone)
    tensor = strided(everyone[rank]) if rank % 2 == 0 else everyone[rank].clone()
    dist.all_reduce(tensor)
    same(tensor, total)
    tensor = strided(everyone[rank])
    dist.broadcast(tensor, world - 1)
    same(tensor, everyone[world - 1])
    tensor = strided(everyone[rank])
    dist.reduce(tensor, 0)
    same(tensor, total if rank == 0 else everyone[rank])
    parts = [strided(torch.zeros(6, 7)) for _ in range(world)]
    dist.all_gather(parts, strided(everyone[rank]))
    for part, expected in zip(parts, everyone, strict=True):
        same(part, expected)
    result = strided(torch.zeros(6, 7))
    dist.reduce_scatter(result, [strided(everyone[rank]) for _ in range(world)])
    same(result, total)
    dist.scatter(result, [strided(everyone[0])] * world if rank == 0 else None, 0)
    same(result, everyone[0])
    if world > 1:
        message = strided(everyone[rank])
        result = strided(torch.zeros(6, 7))
        sent = dist.isend(message, (rank + 1) % world)
        dist.recv(result, (rank - 1) % world)
        assert sent is not None
        sent.wait()
        same(result, everyone[(rank - 1) % world])


def uneven_lists() -> None:
    """all_gather and reduce_scatter where the ranks' parts differ in size."""
    rank, world = me_and_world()
    parts = [torch.zeros(peer + 2) for peer in range(world)]
    dist.all_gather(parts, values(rank, torch.float32, rank + 2))
    for peer, part in enumerate(parts):
        same(part, values(peer, torch.float32, peer + 2))
    result = torch.zeros(rank + 2)
    dist.reduce_scatter(result, [torch.full((peer + 2,), rank + 1.0) for peer in range(world)])
    same(result, torch.full((rank + 2,), world * (world + 1) / 2))


def overlapping_tensors() -> None:
    """Outputs that are views of the inputs, as FSDP has them."""
    rank, world = me_and_world()
    whole = torch.zeros(world, 50)
    whole[rank] = values(rank, torch.float32, 50)
    dist.all_gather_into_tensor(whole, whole[rank])
    for peer in range(world):
        same(whole[peer], values(peer, torch.float32, 50))
    whole = values(rank, torch.float32, world, 50)
    dist.reduce_scatter_tensor(whole[rank], whole)
    everyone = [values(peer, torch.float32, world, 50)[rank] for peer in range(world)]
    same(whole[rank], reduced("SUM", everyone))
    shared = values(rank, torch.float32, world * 4)
    dist.all_to_all_single(shared, shared)
    columns = [values(p, torch.float32, world * 4).view(world, 4)[rank] for p in range(world)]
    same(shared.view(world, 4), torch.stack(columns))


def coalesced() -> None:
    """Many tensors at once, small and large, of several dtypes."""
    rank, world = me_and_world()
    shapes = [(7,), (100_000,), (3, 4), (0,), (90_000,), ()]
    dtypes = [torch.float32, torch.int64, torch.float32, torch.float32, torch.bfloat16, torch.int64]
    tensors = [values(rank, d, *s) for d, s in zip(dtypes, shapes, strict=True)]
    tensors[2] = strided(tensors[2])
    group = dist.group.WORLD
    assert group is not None
    group.allreduce_coalesced(tensors).wait()  # dist.all_reduce_coalesced takes only one dtype
    for tensor, dtype, shape in zip(tensors, dtypes, shapes, strict=True):
        same(tensor, reduced("SUM", inputs(world, dtype, *shape)))

    each = [values(rank, torch.float32, 5), values(rank, torch.float32, 2, 3)]
    totals = [t.clone() for t in each]
    with dist._coalescing_manager(async_ops=True) as manager:
        for tensor in totals:
            dist.all_reduce(tensor)
    manager.wait()
    for tensor, like in zip(totals, each, strict=True):
        same(tensor, reduced("SUM", inputs(world, torch.float32, *like.shape)))

    wholes = [torch.zeros(world * 5), torch.zeros(world * 2, 3)]
    with dist._coalescing_manager():
        for whole, part in zip(wholes, each, strict=True):
            dist.all_gather_into_tensor(whole, part)
    same(wholes[0].view(world, 5), torch.stack(inputs(world, torch.float32, 5)))
    results = [torch.zeros(5), torch.zeros(2, 3)]
    with dist._coalescing_manager():
        for whole, result in zip(wholes, results, strict=True):
            dist.reduce_scatter_tensor(result, whole)
    for result, part in zip(results, each, strict=True):
        same(result, part * world)

    lists = [[torch.zeros(5), torch.zeros(2, 3)] for _ in range(world)]
    dist.all_gather_coalesced(lists, each)
    for peer, tensors in enumerate(lists):
        same(tensors[0], values(peer, torch.float32, 5))

    device = torch.device("cpu")
    with dist._coalescing_manager(device=device, async_ops=True) as manager:
        root_tensor = values(rank, torch.float32, 5)
        dist.broadcast(root_tensor, 0)
    manager.wait()
    same(root_tensor, values(0, torch.float32, 5))


def sparse() -> None:
    """Sparse tensors of different indices, and of none."""
    rank, world = me_and_world()

    def of(peer: int) -> torch.Tensor:
        rows = torch.tensor([[peer, peer + 1, peer]]) if peer != 1 else torch.zeros(1, 0).long()
        return torch.sparse_coo_tensor(rows, torch.ones(rows.shape[1], 2) * (peer + 1), (6, 2))

    for op, factor in ((dist.ReduceOp.SUM, 1), (dist.ReduceOp.AVG, 1 / world)):
        tensor = of(rank)
        dist.all_reduce(tensor, op)
        total = torch.stack([of(peer).to_dense() for peer in range(world)]).sum(0)
        same(tensor.to_dense(), total * factor)


def objects() -> None:
    """Anything that pickles."""
    rank, world = me_and_world()
    gathered: list[object] = [None] * world
    dist.all_gather_object(gathered, {"rank": rank, "text": "x" * rank * 1000})
    assert gathered == [{"rank": peer, "text": "x" * peer * 1000} for peer in range(world)]
    shared = [rank, "a"] if rank == 0 else [None, None]
    dist.broadcast_object_list(shared, 0)
    assert shared == [0, "a"]
    output: list[object] = [None]
    dist.scatter_object_list(output, list(range(10, 10 + world)) if rank == 0 else None, 0)
    assert output == [10 + rank]
    collected: list[object] | None = [None] * world if rank == world - 1 else None
    dist.gather_object(rank, collected, world - 1)
    assert collected is None or collected == list(range(world))


def over_two_gibibytes() -> None:
    """Counts and offsets that do not fit 31 bits."""
    rank, world = me_and_world()
    tensor = torch.full((2**31 + 5,), rank + 1, dtype=torch.uint8)
    total = world * (world + 1) // 2
    marks = tensor[:: 2**20]  # so that a part that went elsewhere shows
    marks.copy_(torch.arange(len(marks)) % 50)
    dist.all_reduce(tensor)
    same(marks, (torch.arange(len(marks)) % 50 * world).to(torch.uint8))
    marks.fill_(total)
    assert int(tensor.min()) == int(tensor.max()) == total
