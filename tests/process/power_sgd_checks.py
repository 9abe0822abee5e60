"""Checks of hooks.power_sgd_hook. Run by test_power_sgd.py on every rank."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_codec_checks import SCALES, Ordered
from tests.process.ddp_models import gradients, inputs, loss_of, same_everywhere
from torch import nn
from torch.nn.parallel import DistributedDataParallel as TorchDDP

import fastgpu_comm
from fastgpu_comm import hooks

SMALL_BUCKETS: Any = {"bucket_cap_mb": 0.02}


def deep_net() -> nn.Sequential:
    torch.manual_seed(0)
    inner = [each for _ in range(4) for each in (nn.Linear(96, 96), nn.Tanh())]
    return nn.Sequential(nn.Linear(8, 96), nn.Tanh(), *inner, nn.Linear(96, 8))


def compressed(module: nn.Module, **options: Any) -> tuple[TorchDDP, hooks.PowerSgdState]:
    """Wraps a module in our class over fastgpu, in torch's over other backends."""
    wrap = fastgpu_comm.DistributedDataParallel if dist.get_backend() == "fastgpu" else TorchDDP
    model = wrap(module, **SMALL_BUCKETS)
    state = hooks.PowerSgdState(model, **options)
    model.register_comm_hook(state, hooks.power_sgd_hook)
    return model, state


def backward(model: nn.Module, step: int) -> None:
    rank, _ = me_and_world()
    model.zero_grad()
    loss_of(model, inputs(step, rank)).backward()


def nothing_is_lost() -> None:
    """Uncompressed, compressed and refreshing steps: all gradients arrive, if late."""
    _, world = me_and_world()
    model, state = compressed(deep_net(), start_step=2, refresh_every=5)
    exact = TorchDDP(deep_net(), **SMALL_BUCKETS)
    names = [f"{layer}.weight" for layer in (2, 4, 6, 8)]
    assert state.compressed == names
    owed = {name: torch.zeros(96, 96) for name in names}
    sent = []
    for step in range(8):
        before = state.bytes_sent
        for each in (model, exact):
            backward(each, step)
        sent.append(state.bytes_sent - before)
        same_everywhere(gradients(model))
        residuals = state.state_dict()["residuals"]
        assert set(residuals) == (set(names) if step in (2, 3, 4, 6, 7) else set())
        theirs = dict(exact.module.named_parameters())
        module: Any = model.module
        for name, parameter in module.named_parameters():
            mine, other = parameter.grad, theirs[name].grad
            assert mine is not None
            assert other is not None
            if name not in names:
                torch.testing.assert_close(mine, other)
                continue
            owed[name] += other - mine
            left = residuals.get(name, torch.zeros(96, 96))
            dist.all_reduce(left)
            torch.testing.assert_close(left, owed[name], rtol=1e-3, atol=1e-6)
            if residuals:
                assert int(torch.linalg.matrix_rank(mine, rtol=1e-4)) == 2
    assert len(model.reducer._get_zeros_like_grad_buckets()) > 4
    exact_bytes = 4 * sum(p.numel() for p in model.module.parameters())
    thin_bytes = exact_bytes - 4 * (96 * 96 * 4 - 2 * 2 * 96 * 4)
    for step, bytes_ in enumerate(sent):
        expected = exact_bytes if step in (0, 1, 5) else thin_bytes
        assert bytes_ == pytest.approx(2 * (world - 1) / world * expected, abs=100)


def low_rank() -> None:
    """A gradient of rank r arrives whole, in any layout, also after a gradient of zero."""
    rank, world = me_and_world()
    wide: Any = nn.Conv2d(32, 64, 3, bias=False)
    wide = wide.to(memory_format=torch.channels_last)
    turned = nn.Linear(96, 64, bias=False)
    turned.weight = nn.Parameter(torch.randn(96, 64).T)
    for module, x in (
        (nn.Linear(96, 64, bias=False), torch.randn(1, 96)),
        (turned, torch.randn(1, 96)),
        (wide, torch.randn(1, 32, 3, 3)),
    ):
        x[:, :8] = 0  # so that unit vectors do not span the gradient
        model, state = compressed(module, rank=world, start_step=0)
        exact = TorchDDP(module)
        assert state.compressed == ["weight"]
        for factor in (0.0, 1.0, 2.0):
            found = []
            for each in (model, exact):
                each.zero_grad()
                each(x * factor * (rank + 1)).square().sum().backward()
                found += gradients(each)
            same_everywhere(found[:1])
            torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def losses() -> tuple[float, float]:
    """Returns the loss of a small model after some training, uncompressed and compressed."""
    rank, _ = me_and_world()
    found = []
    settings: tuple[Any, ...] = (None, {"rank": 4, "start_step": 20, "refresh_every": 50})
    for options in settings:
        model = TorchDDP(deep_net()) if options is None else compressed(deep_net(), **options)[0]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        total = torch.zeros(())
        for step in range(300):
            loss = loss_of(model, inputs(step, rank))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() if step >= 280 else 0
        same_everywhere(list(model.parameters()))
        dist.all_reduce(total)
        found.append(float(total))
    return found[0], found[1]


def state() -> None:
    """Training that continues from a checkpoint has the same bits; a wrong one is refused."""
    options: Any = {"start_step": 1, "refresh_every": 6}
    model, original = compressed(deep_net(), **options)
    for step in range(4):
        backward(model, step)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    resumed, loaded = compressed(deep_net(), **options)
    backward(resumed, 9)  # torch rebuilds the buckets
    loaded.load_state_dict(torch.load(file))
    fresh, _ = compressed(deep_net(), **options)
    backward(fresh, 9)
    for step in range(4, 8):
        for each in (model, resumed, fresh):
            backward(each, step)
        assert all(map(torch.equal, gradients(resumed), gradients(model)))
        assert not all(map(torch.equal, gradients(fresh), gradients(model)))
    _, other = compressed(deep_net(), rank=3)
    with pytest.raises(ValueError, match=r"factor of '2.weight' is of .*\(2, 96\).*\(3, 96\)"):
        other.load_state_dict(original.state_dict())
    bads: tuple[dict[str, Any], ...] = ({"rank": 0}, {"start_step": -1}, {"refresh_every": 1})
    for bad in bads:
        with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
            hooks.PowerSgdState(model, **bad)
    some = hooks.PowerSgdState(model, lambda name, shape, dtype: 4 * (name == "4.weight"))
    assert some.compressed == ["4.weight"]
    assert hooks.PowerSgdState(model, 2, min_ratio=25).compressed == []


def not_finite() -> None:
    """An infinity on one rank reaches all, and leaves no trace in the next steps."""
    rank, _ = me_and_world()
    for start, number in ((0, 3), (4, 3)):  # compressed and uncompressed when it happens
        clean, _ = compressed(deep_net(), start_step=start)
        model, state = compressed(deep_net(), start_step=start)
        for step in range(number):
            for each in (clean, model):
                backward(each, step)
        model.zero_grad()
        loss = loss_of(model, inputs(7, rank))
        (loss * (torch.inf if rank == 1 else 1.0)).backward()
        for gradient in gradients(model):
            assert not bool(gradient.isfinite().any())
        state.step -= 1  # of the skipped step
        for step in range(number, number + 3):
            for each in (clean, model):
                backward(each, step)
            assert all(map(torch.equal, gradients(model), gradients(clean)))


def too_large() -> None:
    """Finite gradients whose products are not leave no trace in the next steps either."""
    rank, _ = me_and_world()
    matrix = nn.Linear(96, 96, bias=False)
    (clean, _), (model, state) = (compressed(copy.deepcopy(matrix), start_step=0) for _ in range(2))

    def step(model: nn.Module, number: int) -> torch.Tensor:
        model.zero_grad()
        generator = torch.Generator().manual_seed(10 * number + rank)
        model(torch.rand(4, 96, generator=generator)).square().sum().backward()
        return gradients(model)[0]

    model(torch.full((1, 96), 1e38)).sum().backward()
    assert not bool(gradients(model)[0].isfinite().any())
    state.step -= 1
    for number in range(3):
        assert torch.equal(step(model, number), step(clean, number))
    exact, _ = compressed(matrix, start_step=1)  # the next Q is computed from the first gradient
    exact(torch.full((1, 96), 1e38)).sum().backward()
    assert bool(gradients(exact)[0].isfinite().all())
    assert bool(step(exact, 0).isfinite().all())


def follows_parameters() -> None:
    """Residuals stay with their parameters where GradBucket.parameters() is wrong."""
    rank, _ = me_and_world()
    module = Ordered()
    model, state = compressed(module, start_step=0)
    owed = {name: torch.zeros(96, 96) for name in SCALES}
    for step in range(7):
        if step == 3:  # as ddp_codec_checks.residuals_follow_parameters
            model._update_process_group(dist.new_group(backend=dist.get_backend()))
            module.order.reverse()
        x = torch.randn(96, 96, generator=torch.Generator().manual_seed(step * 10 + rank))
        model.zero_grad()
        model(x).sum().backward()
        dist.all_reduce(x)
        for name, scale in SCALES.items():
            gradient = getattr(module, name).grad
            owed[name] += x / dist.get_world_size() - gradient / scale
            left = state.state_dict()["residuals"][name]
            dist.all_reduce(left)
            torch.testing.assert_close(left / scale, owed[name], rtol=1e-3, atol=1e-3)


def joined() -> None:
    """Ranks with fewer inputs take part until the last one ends."""
    rank, world = me_and_world()
    model, state = compressed(deep_net(), start_step=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with model.join():
        for step in range(2 + rank):
            backward(model, step)
            optimizer.step()
    same_everywhere(list(model.parameters()))
    assert state.step == 1 + world


def large_seed() -> None:
    """Any integer from 0 on is a seed, and different seeds give a different first Q."""
    found = []
    for seed in (0, 2**70, 2**70 + 1):
        model, state = compressed(deep_net(), start_step=0, seed=seed)
        backward(model, 0)
        same_everywhere(gradients(model))
        found.append(state.state_dict()["factors"]["2.weight"])
    assert not any(torch.equal(found[k], found[k - 1]) for k in range(3))


def sparse() -> None:
    """Sparse gradients stay sparse and exact, beside compressed ones."""
    rank, _ = me_and_world()
    module: Any = nn.Sequential(nn.Embedding(100, 64, sparse=True), nn.Linear(64, 96))
    model, state = compressed(module, start_step=1)
    exact = TorchDDP(module)
    assert state.compressed == ["1.weight"]
    for step in range(3):
        found = []
        for each in (model, exact):
            each.zero_grad()
            each(torch.tensor([rank, 5])).square().sum().backward()
            found.append(module[0].weight.grad.to_dense())
        torch.testing.assert_close(*found)
        assert set(state.state_dict()["residuals"]) == ({"1.weight"} if step else set())


def sparse_in_a_static_graph() -> None:
    """The same where torch gives all buckets of the first pass the index 0."""
    rank, _ = me_and_world()
    module: Any = nn.Sequential(nn.Embedding(100, 64, sparse=True), nn.Linear(64, 96))
    model, exact = (TorchDDP(each, static_graph=True) for each in (module, copy.deepcopy(module)))
    state = hooks.PowerSgdState(model, start_step=1)
    model.register_comm_hook(state, hooks.power_sgd_hook)
    for step in range(3):
        for each in (model, exact):
            each.zero_grad()
            each(torch.tensor([rank, 5])).square().sum().backward()
        sparse = [each.module[0].weight.grad.to_dense() for each in (model, exact)]
        torch.testing.assert_close(*sparse)
        assert set(state.state_dict()["residuals"]) == ({"1.weight"} if step else set())
