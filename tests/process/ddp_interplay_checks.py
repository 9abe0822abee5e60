"""Checks of DistributedDataParallel with other parts of torch. Run by test_ddp.py on every rank.

torch's class, on the same group, is the referee.
"""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import WIDTH, gradients, inputs, loss_of, net, same_everywhere
from torch import nn
from torch._dynamo import compiled_autograd, config
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import DistributedDataParallel


def exact(*_: object) -> None:
    """A choice of codecs: none, so that our hook reduces all gradients as they are."""


CODECS: tuple[Any, ...] = (None, exact, "int8")


def like_torchs(model: nn.Module, torchs: nn.Module, codec: Any) -> None:
    """The ranks agree on the gradients, which are torch's, or close to them with a codec."""
    mine, others = gradients(model), gradients(torchs)
    same_everywhere(mine)
    for one, other in zip(mine, others, strict=True):
        if codec == "int8":
            assert float((one - other).norm()) <= 0.02 * float(other.norm())
        else:
            torch.testing.assert_close(one, other)


class Checkpointed(nn.Module):
    """Forgets the activations of its second half."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, reentrant: bool) -> torch.Tensor:
        y: torch.Tensor = torch.utils.checkpoint.checkpoint(
            self.b, self.a(x).tanh(), use_reentrant=reentrant
        )
        return y


def activation_checkpoints() -> None:
    """Both kinds of activation checkpoints, under autocast."""
    rank, _ = me_and_world()
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(rank))
    for codec in CODECS:
        for reentrant in (False, True):
            models = (
                DistributedDataParallel(Checkpointed(), codec=codec, static_graph=reentrant),
                TorchDDP(Checkpointed(), static_graph=reentrant),
            )
            for _ in range(3):
                for model in models:
                    model.zero_grad()
                    with torch.autocast("cpu", dtype=torch.bfloat16):
                        loss = model(x, reentrant).float().square().mean()
                    loss.backward()
                like_torchs(*models, codec)


def scaled_half_precision() -> None:
    """Autocast to float16 with a GradScaler: if a rank overflows, all ranks skip the step."""
    rank, world = me_and_world()
    for codec in CODECS:
        model = DistributedDataParallel(net(), codec=codec)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        model.follow_scaler(scaler)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scales = []
        for step in range(6):
            before = [p.clone() for p in model.parameters()]
            x = inputs(step, rank)
            if step == 3 and rank == world - 1:
                x[0, 0] = float("inf")
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = model(x).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            same_everywhere(list(model.parameters()))
            changed = [
                not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)
            ]
            assert changed == [step != 3] * len(before)
        assert scales == [1024.0, 2048.0, 2048.0, 1024.0, 1024.0, 2048.0]


def resumed_with_a_scaler() -> None:
    """A state may be loaded at any time: the residuals have the units of the scaler's scale."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="int4")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.follow_scaler(scaler)
    for step in range(3):
        scaler.scale(model(inputs(step, rank)).square().mean()).backward()
    state = model.reducer_state_dict()
    assert state["scale"] == 1024.0
    loaded = []
    for steps, load_first in itertools.product((0, 2), (False, True)):
        resumed = DistributedDataParallel(net(), codec="int4")
        for step in range(steps):  # without a scaler
            resumed(inputs(step, rank)).square().mean().backward()
        if load_first:
            resumed.load_reducer_state_dict(state)
        resumed.follow_scaler(scaler)
        if not load_first:
            resumed.load_reducer_state_dict(state)
        loaded.append(resumed.reducer_state_dict())
    replaced, copied = torch.amp.GradScaler("cpu", init_scale=4096.0), copy.deepcopy(model)
    copied.follow_scaler(replaced)
    model.follow_scaler(replaced)  # after steps with another scaler
    for name, residual in state["residuals"].items():
        for each in loaded:
            assert each["scale"] == 1024.0
            torch.testing.assert_close(each["residuals"][name], residual, rtol=0, atol=0)
        for moves in (copied, model):
            moved = moves.reducer_state_dict()["residuals"][name]
            torch.testing.assert_close(moved, 4 * residual, rtol=0, atol=0)


def scale_that_grows_and_falls() -> None:
    """Residuals from before a step that is undone have the units of the scale that has grown."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="int4")
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    model.follow_scaler(scaler)
    for step in range(3):
        before = model.reducer_state_dict()["residuals"]
        scaler.scale(model(inputs(step, rank)).square().mean()).backward()
    scaler.update(128.0)
    assert model.reducer_state_dict()["scale"] == 128.0
    scaler.update(32.0)
    after = model.reducer_state_dict()["residuals"]
    for name, residual in before.items():
        torch.testing.assert_close(after[name], residual * (32 / 64), rtol=0, atol=0)


class Wide(nn.Module):
    """A model of several buckets for torch.compile, which plans none below 1 MiB.

    torch.compile leaves a plain nn.Sequential alone.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 600), nn.Linear(600, 600), nn.Linear(600, 600)
        self.d = nn.Linear(600, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.d(self.c(self.b(self.a(x).tanh()).tanh()).tanh())
        return y


def compiled() -> None:
    """torch.compile, with each way to split the graph at buckets."""
    rank, _ = me_and_world()

    graphs = []

    def run_as_is(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    def train(mode: Any, codec: Any) -> None:
        torch._dynamo.reset()
        model = DistributedDataParallel(Wide(), codec=codec, bucket_cap_mb=1)
        torchs = TorchDDP(Wide(), bucket_cap_mb=1)
        fast: Any = torch.compile(model, backend=run_as_is)
        graphs.clear()
        for step in range(2):
            model.zero_grad()
            torchs.zero_grad()
            loss: Any = loss_of(fast, inputs(step, rank))
            if mode == "python_reducer":
                with compiled_autograd._enable(torch.compile(backend="eager")):
                    loss.backward()
            else:
                loss.backward()
            loss_of(torchs, inputs(step, rank)).backward()
            like_torchs(model, torchs, codec)
        assert (len(graphs) > 1) == (mode in (True, "ddp_optimizer"))
        assert bool(model.stats()) == (codec is not None)

    for mode, codec in ((True, "int8"), (False, "int8"), ("ddp_optimizer", exact)):
        with config.patch(optimize_ddp=mode):
            train(mode, codec)
    with config.patch(optimize_ddp="python_reducer"):
        train("python_reducer", None)
        with pytest.raises(ValueError, match="python_reducer"):
            DistributedDataParallel(net(), codec="int8")
    torch._dynamo.reset()


def several_backward_passes() -> None:
    """Gradients that are not reset, graphs that are used twice, two forward passes before one."""
    rank, _ = me_and_world()
    for codec in CODECS:
        models = DistributedDataParallel(net(), codec=codec), TorchDDP(net())
        for step in range(3):
            for model in models:
                model.zero_grad()
                loss = loss_of(model, inputs(step, rank))
                loss.backward(retain_graph=True)
                loss.backward()  # torch does not reduce this one
                loss_of(model, inputs(step + 10, rank)).backward()
            like_torchs(*models, codec)
            for model in models:
                first, second = (loss_of(model, inputs(step + k, rank)) for k in (20, 30))
                (first + second).backward()
            like_torchs(*models, codec)


def unused_output_in_a_static_graph() -> None:
    """An unused module is fine in a static graph, unless forward returns its output."""
    rank, _ = me_and_world()

    class TwoHeads(nn.Module):
        def __init__(self, returned: int) -> None:
            super().__init__()
            self.returned = returned
            self.body = net()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, WIDTH * WIDTH)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.body(x)
            return (self.used(y), self.unused(y))[: self.returned]

    def step(model: nn.Module, number: int) -> None:
        model.zero_grad()
        model(inputs(number, rank))[0].square().mean().backward()

    for codec in CODECS:
        torchs = TorchDDP(TwoHeads(1), static_graph=True)
        model = DistributedDataParallel(TwoHeads(1), codec=codec, static_graph=True)
        for number in range(4):
            step(model, number)
            step(torchs, number)
            like_torchs(model, torchs, codec)
            assert model.module.unused.weight.grad is None
        torchs = TorchDDP(TwoHeads(2), static_graph=True)
        model = DistributedDataParallel(TwoHeads(2), codec=codec, static_graph=True)
        for each, message in ((torchs, "finished reduction"), (model, r"unused\.weight")):
            step(each, 0)
            step(each, 1)  # which torch does not reduce
            with pytest.raises(RuntimeError, match=message):
                step(each, 2)


def saved_and_loaded() -> None:
    """State dicts have torch's keys, and go from either class to the other."""
    saved = io.BytesIO()
    torch.save(DistributedDataParallel(net(1), codec="int8").state_dict(), saved)
    saved.seek(0)
    torchs = TorchDDP(net(2))
    torchs.load_state_dict(torch.load(saved))
    model = DistributedDataParallel(net(3), codec="int8")
    model.load_state_dict(torchs.state_dict())
    for name, parameter in net(1).named_parameters():
        assert torch.equal(model.state_dict()[f"module.{name}"], parameter)


def nothing_to_compress() -> None:
    """A codec that is used for no parameter is told, as nobody would notice."""
    with pytest.warns(UserWarning, match="codec int8 compresses nothing here") as warned:
        DistributedDataParallel(nn.Linear(4, 4), codec="int8")
    assert warned[0].filename == __file__  # the user's line
    with pytest.warns(UserWarning, match="float32 parameters"):
        DistributedDataParallel(net().to(torch.bfloat16), codec="int8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DistributedDataParallel(net(), codec="int8")
        DistributedDataParallel(nn.Linear(4, 4), codec=lambda *_: None)


def complex_parameters() -> None:
    """Complex gradients are averaged, in torch's class and in ours, with a codec and weights."""

    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64))
            self.wide = nn.Linear(64, 64)

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.wide(value).sum() * (self.turn * self.turn).sum().abs()
            return result

    rank, _ = me_and_world()
    gloo = dist.new_group(backend="gloo")
    torch.manual_seed(0)
    plain = Rotated()
    value = torch.randn(4, 64, generator=torch.Generator().manual_seed(rank))
    expected = TorchDDP(copy.deepcopy(plain), process_group=gloo)
    expected(value).backward()
    for views, codec in itertools.product((False, True), (None, "int8")):
        options: dict[str, Any] = {"gradient_as_bucket_view": views}
        weighted = DistributedDataParallel(
            copy.deepcopy(plain), codec=codec, weighted="mean", **options
        )
        weighted.set_weight(1)
        models: list[Any] = [weighted, TorchDDP(copy.deepcopy(plain), **options)]
        models.append(DistributedDataParallel(copy.deepcopy(plain), codec=codec, **options))
        for model in models:
            model(value).backward()
            torch.testing.assert_close(model.module.turn.grad, expected.module.turn.grad)
            same_everywhere([torch.view_as_real(model.module.turn.grad)])
    dist.destroy_process_group(gloo)
