"""Checks of what DistributedDataParallel keeps of torch's class. Run by test_ddp.py."""

from __future__ import annotations

import gc
import itertools
import re
import resource
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import CODECS, WIDTH, gradients, inputs, loss_of, net, same_everywhere
from tests.process.events import Events
from tests.process.shortage_checks import soft_limit
from torch import nn
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import DistributedDataParallel, codecs


def uncompressed() -> None:
    """Without codec and weights: the gradients of torch's class on gloo, and no hook."""
    rank, _ = me_and_world()
    gloo = dist.new_group(backend="gloo")
    ours, torchs = DistributedDataParallel(net()), TorchDDP(net(), process_group=gloo)
    for step in range(3):
        for model in (ours, torchs):
            model.zero_grad()
            loss_of(model, inputs(step, rank)).backward()
        for mine, other in zip(gradients(ours), gradients(torchs), strict=True):
            assert torch.equal(mine, other)
    assert calls_no_hook(ours)
    dist.destroy_process_group(gloo)
    # A user's own hook still works, and a second one is refused by torch.
    hooked = DistributedDataParallel(net())
    calls = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch dislikes annotations in quotes
        calls.append(bucket.index())
        work: Any = dist.all_reduce(bucket.buffer(), dist.ReduceOp.AVG, async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    hooked.register_comm_hook(None, hook)
    loss_of(hooked, inputs(0, rank)).backward()
    assert calls
    same_everywhere(gradients(hooked))


def calls_no_hook(model: Any) -> bool:
    return not model._get_ddp_logging_data().get("comm_hook")


def modes(codec: str) -> None:
    """Every mode of torch's class: the same bits on all ranks, close to the exact gradients."""
    rank, _ = me_and_world()
    for views, set_to_none, static in itertools.product((False, True), repeat=3):
        options: dict[str, Any] = {"gradient_as_bucket_view": views, "static_graph": static}
        model = DistributedDataParallel(net(), codec=codec, bucket_cap_mb=0.02, **options)
        exact = TorchDDP(net(), bucket_cap_mb=0.02, **options)
        for step in range(4):
            for each in (model, exact):
                each.zero_grad(set_to_none=set_to_none)
                if not static:  # torch refuses to accumulate in the first step of a static graph
                    with each.no_sync():
                        loss_of(each, inputs(step, rank)).backward()
                loss_of(each, inputs(step, rank + 100)).backward()
            same_everywhere(gradients(model))
            error = norm = 0.0
            for mine, other in zip(gradients(model), gradients(exact), strict=True):
                if mine.dim() == 1 or mine.numel() < codecs.LEAST_ELEMENTS:
                    torch.testing.assert_close(mine, other)
                else:
                    assert not torch.equal(mine, other)
                    error += float((mine - other).norm())
                    norm += float(other.norm())
            assert error < 0.4 * norm
        plan = model.bucket_plan()
        assert sorted(itertools.chain(*plan)) == sorted(dict(model.module.named_parameters()))
        assert ["2.weight"] in plan  # the only one large enough for a codec


def unused() -> None:
    """find_unused_parameters: a parameter that no rank uses keeps grad None."""
    rank, _ = me_and_world()

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = (nn.Linear(96, 96) for _ in range(3))

        def forward(self, x: torch.Tensor, use_b: bool) -> torch.Tensor:
            y: torch.Tensor = self.a(x)
            return y + self.b(x) if use_b else y

    model = DistributedDataParallel(Branches(), codec="int8", find_unused_parameters=True)
    for step in range(3):
        model.zero_grad()
        model(torch.ones(2, 96), rank == step % 2).sum().backward()
        assert model.module.c.weight.grad is None
        same_everywhere(gradients(model))
    strict: Any = DistributedDataParallel(Branches(), codec="int8")
    strict(torch.ones(2, 96), False).sum().backward()
    # Names and, for whoever looks for torch's text, that too.
    text = r"(?s)Parameter indices which .*: 2 3.*b\.bias, b\.weight.*set the environment variable"
    with pytest.raises(RuntimeError, match=text) as raised:
        strict(torch.ones(2, 96), False)
    assert strict._get_ddp_logging_data()["error"] == str(raised.value)
    # Nobody waits, so the group goes on.
    same_everywhere(list(model.parameters()))


def joined() -> None:
    """Uneven inputs under join(), divided either way, as torch's class divides."""
    rank, world = me_and_world()
    for initial in (True, False):
        results = []
        for kind in (TorchDDP, DistributedDataParallel):
            options: dict[str, Any] = {} if kind is TorchDDP else {"codec": "int8"}
            model = kind(nn.Linear(96, 96, bias=False), **options)
            with torch.no_grad():
                model.module.weight.fill_(1.0)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            with model.join(divide_by_initial_world_size=initial):
                for _ in range(2 + rank):
                    optimizer.zero_grad()
                    model(torch.ones(1, 96)).sum().backward()
                    optimizer.step()
            same_everywhere(list(model.parameters()))
            results.append(model.module.weight.detach().clone())
        torch.testing.assert_close(results[1], results[0], rtol=0.02, atol=0.02)
        assert float(results[0].mean()) == pytest.approx(
            1 - 2 - sum((r + 0.0) / (world if initial else r) for r in range(1, world))
        )


def joined_with_weights() -> None:
    """Under join() a rank that has no more inputs has weight 0."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(nn.Linear(96, 96, bias=False), codec="int8", weighted="mean")
    with torch.no_grad():
        model.module.weight.fill_(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with model.join():
        for _ in range(1 + rank):
            optimizer.zero_grad()
            model.set_weight(1 + rank)
            model(torch.ones(1, 96)).sum().backward()
            optimizer.step()
    # The mean gradient is 1 in each step, for any number of ranks that take part.
    torch.testing.assert_close(
        model.module.weight.detach(),
        torch.full((96, 96), -float(dist.get_world_size())),
        rtol=0.02,
        atol=0.02,
    )


def last_ranks() -> None:
    """stats(all_ranks=True) names the rank that all others waited for."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec="int8", bucket_cap_mb=0.02)
    for number in range(2):  # torch rebuilds its buckets
        loss_of(model, inputs(number, rank)).backward()
    first = dict(model.module.named_parameters())["0.weight"]  # its gradient is the last
    for late in range(world):
        events = Events()
        others = [f"rank {each} waits" for each in range(world) if each != late]
        loss = loss_of(model, inputs(2, rank))
        handle = first.register_hook(lambda _, events=events: events.set(f"rank {rank} waits"))
        if rank == late:
            events.wait(*others)
            for number in range(200):  # the others wait meanwhile
                events.set(f"still late {number}")
                events.wait(f"still late {number}")
        loss.backward()
        handle.remove()
        buckets = model.stats(all_ranks=True)
        assert len(buckets) > 1
        for bucket in buckets:
            assert bucket["last_rank"] == late, bucket
            assert bucket["waits_s"][rank] == bucket["done_s"] - bucket["launched_s"]
            assert bucket["launches_s"][rank] == bucket["launched_s"]
            assert bucket["codecs_s"][rank] == bucket["codec_s"]
            for times in ("waits_s", "launches_s", "codecs_s"):
                assert len(bucket[times]) == world
            assert set(bucket) == documented_keys()
    assert DistributedDataParallel(net()).stats(all_ranks=True) == []


def documented_keys() -> set[str]:
    """Returns the keys that docs/ddp.md lists for `stats`."""
    page = (Path(__file__).parents[2] / "docs" / "ddp.md").read_text()
    table = page.split("| key | value |\n", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines()[1:]]
    return set(re.findall(r"`(\w+)`", " ".join(cells)))


def refusals() -> None:
    """Bad combinations of arguments are refused by name, on every rank."""
    gloo = dist.new_group(backend="gloo")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"codec": "int7"}, ValueError, "int7.*int8"),
        ({"codec": 8}, TypeError, "codec is 8; it must be"),
        ({"weighted": "median"}, ValueError, "median"),
        ({"codec": "int8", "process_group": gloo}, ValueError, "fastgpu_comm.hooks"),
        ({"codec": "int8", "mixed_precision": object()}, ValueError, "mixed_precision"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            DistributedDataParallel(net(), **options)
    model = DistributedDataParallel(net(), codec="int8")
    with pytest.raises(RuntimeError, match="can only be called once"):
        model.register_comm_hook(None, lambda state, bucket: None)
    with pytest.raises(ValueError, match="weighted"):
        model.set_weight(3)
    dist.destroy_process_group(gloo)


def differing_models() -> None:
    """Every rank names the first parameter or setting that differs, and the group stays usable."""
    rank, _ = me_and_world()
    odd = rank == 1
    frozen = nn.Linear(4, 5)
    frozen.weight.requires_grad_(not odd)
    cases: list[tuple[nn.Module, dict[str, Any], str]] = [
        (frozen, {}, r"2 params, while rank 1 has 1\..*\[weight: requires no gradient\] on rank 1"),
        (nn.Linear(4, 5 + odd), {}, r"\[weight: float32, shape \[5, 4\].*\[6, 4\]"),
        (nn.Linear(4, 5, bias=not odd), {}, r"Rank 0 has 2 params.* 1\..*\[bias: .*no parameter"),
        (nn.Linear(4, 5).to(torch.float64 if odd else torch.float32), {}, "weight: float64"),
        (
            nn.Linear(4, 5),
            {"codec": lambda *_: "int8" if odd else None},
            "name='int8'",
        ),
        (nn.Linear(4, 5), {"codec": lambda *_: codecs.Codec("int8", odd)}, "feedback=True"),
        (nn.Linear(4, 5), {"weighted": "sum" if odd else "mean"}, "has weighted='sum'"),
        (nn.Linear(4, 5), {"static_graph": odd}, "static_graph=False, and rank 1 has .*True"),
        (nn.Linear(4, 5), {"find_unused_parameters": odd}, "rank 1 has find_unused_.*True"),
    ]
    for module, options, message in cases:
        with pytest.raises(RuntimeError, match=message):
            DistributedDataParallel(module, **options)
    group: Any = dist.new_group(backend="cpu:fastgpu,meta:gloo")
    with pytest.raises(RuntimeError, match="name='int8'"):
        DistributedDataParallel(net(), codec="int8" if odd else "int4", process_group=group)
    # Names also where torch's Reducer finds the error.
    with pytest.raises(RuntimeError, match=r"module .*doesn't have any parameter|not needed"):
        DistributedDataParallel(nn.Tanh())
    dist.barrier()


def buckets_in_symmetric_memory() -> None:
    """The class of torch takes its buckets from the backend."""
    from fastgpu_comm.backend import backend_of

    rank, _ = me_and_world()
    backend: Any = backend_of()
    assert backend.supports_tensor_alloc(torch.device("cpu"))
    model = TorchDDP(net(), gradient_as_bucket_view=True)
    loss_of(model, inputs(0, rank)).backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    assert _is_memory_file(gradient.data_ptr())
    with soft_limit(resource.RLIMIT_FSIZE, 8192):  # then they are in ordinary memory
        large = TorchDDP(nn.Linear(4096, 2048, bias=False), gradient_as_bucket_view=True)
    large(torch.ones(1, 4096)).sum().backward()
    assert not _is_memory_file(gradients(large)[0].data_ptr())


def _is_memory_file(address: int) -> bool:
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return "memfd" in line
    return False


def hooks_over_gloo(codec: str) -> None:
    """The codecs as hooks of torch's class over gloo."""
    from fastgpu_comm import hooks

    rank, _ = me_and_world()
    owed = torch.zeros(WIDTH, WIDTH)  # the exact gradients of 2.weight, less what was delivered
    options: dict[str, Any] = {"bucket_cap_mb": 0.02}
    model, exact = TorchDDP(net(), **options), TorchDDP(net(), **options)
    state = hooks.CodecState(model, codec)
    model.register_comm_hook(state, hooks.codec_hook)
    for step in range(4):
        for each in (model, exact):
            each.zero_grad()
            loss_of(each, inputs(step, rank)).backward()
        same_everywhere(gradients(model))
        for mine, other in zip(gradients(model), gradients(exact), strict=True):
            if mine.dim() == 1 or mine.numel() < codecs.LEAST_ELEMENTS:
                torch.testing.assert_close(mine, other)
            else:
                limit = 0.4 if codec in CODECS else 2
                assert 0 < float((mine - other).norm()) < limit * float(other.norm())
        pair = [dict(each.module.named_parameters())["2.weight"].grad for each in (exact, model)]
        owed += pair[0] - pair[1]
    residuals = state.state_dict()["residuals"]
    assert set(residuals) == (set() if codec in ("fp16", "bf16") else {"2.weight"})
    for kept in residuals.values():
        dist.all_reduce(kept)
        torch.testing.assert_close(kept.view_as(owed), owed, rtol=1e-3, atol=1e-6)


def hooks_in_a_smaller_group() -> None:
    """A hook reduces over the model's group, also after _update_process_group."""
    from fastgpu_comm import hooks

    rank, world = me_and_world()
    smaller: Any = dist.new_group(list(range(world - 1)), backend="fastgpu")
    for make, hook in (
        (lambda model: hooks.CodecState(model, "int4"), hooks.codec_hook),
        (lambda model: hooks.PowerSgdState(model, start_step=0), hooks.power_sgd_hook),
    ):
        model = TorchDDP(net())
        model.register_comm_hook(make(model), hook)
        loss_of(model, inputs(0, rank)).backward()
        if rank == world - 1:
            continue
        model._update_process_group(smaller)
        model.zero_grad()
        loss_of(model, inputs(1, rank)).backward()
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients(model)])
        copies = [torch.empty_like(flat) for _ in range(world - 1)]
        dist.all_gather(copies, flat, group=smaller)
        assert all(torch.equal(each, flat) for each in copies)


def hooks_of_deleted_models() -> None:
    """A model with a hook is freed with it: torch's reducer, in C++, would hide a cycle."""
    from fastgpu_comm import hooks

    for make, hook in (
        (lambda model: hooks.CodecState(model, "int4"), hooks.codec_hook),
        (hooks.PowerSgdState, hooks.power_sgd_hook),
    ):
        model = TorchDDP(net())
        state: Any = make(model)
        model.register_comm_hook(state, hook)
        kept = weakref.ref(state)
        del model, state
        gc.collect()
        assert kept() is None
