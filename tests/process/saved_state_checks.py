"""Checks of loading saved states with residuals. Run by test_saved_states.py on every rank.

A state that does not fit is refused when it is loaded, and changes nothing. A state of another
number of ranks fits, except for FSDP.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import WIDTH, inputs, loss_of, net, same_everywhere
from tests.process.trainer_checks import network, train
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import DistributedDataParallel, OuterOptimizer, fsdp, hooks, saved_states
from fastgpu_comm.trainer.metrics import read

Saved = tuple[str, Callable[[], Any], Callable[[Any], None]]


def _backward(model: nn.Module, step: int) -> None:
    rank, _ = me_and_world()
    model.zero_grad()
    loss_of(model, inputs(step, rank)).backward()


def states() -> list[Saved]:
    """Returns the name of each class with residuals, and the functions that save and load it."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="int4")
    codec_model, power_model = TorchDDP(net()), TorchDDP(net())
    codec = hooks.CodecState(codec_model, "int4")
    power = hooks.PowerSgdState(power_model, 2, start_step=0)
    codec_model.register_comm_hook(codec, hooks.codec_hook)
    power_model.register_comm_hook(power, hooks.power_sgd_hook)
    for each in (model, codec_model, power_model):
        _backward(each, 0)
    module = net()
    outer = OuterOptimizer(torch.optim.Adam(module.named_parameters()), codec="int4")
    _backward(module, 0)
    outer.step()
    outer.outer_step()
    sharded: Any = nn.Linear(WIDTH, 2 * WIDTH)
    fully_shard(sharded)
    compressed = fsdp.compress(sharded, "int4")
    sharded(torch.ones(2, WIDTH) * (1 + rank)).sum().backward()
    return [
        ("reducer_state_dict", model.reducer_state_dict, model.load_reducer_state_dict),
        ("CodecState.state_dict", codec.state_dict, codec.load_state_dict),
        ("PowerSgdState.state_dict", power.state_dict, power.load_state_dict),
        ("OuterOptimizer.state_dict", outer.state_dict, outer.load_state_dict),
        ("Compressed.state_dict", compressed.state_dict, compressed.load_state_dict),
    ]


def equal(one: Any, other: Any) -> bool:
    """Tells whether two states are equal, with the bits of their tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return bool(one == other)


def states_of_others() -> None:
    """A state of another rank is refused, and so is what is no state."""
    rank, world = me_and_world()
    for name, save, load in states():
        state = save()
        assert (state["rank"], state["world_size"]) == (rank, world)
        load(state)
        with pytest.raises(ValueError, match=rf"the state lacks '.*; load what {name}\(\)"):
            load({})
        with pytest.raises(TypeError, match=f"must be what {name}.* not list"):
            load([])
        other = (rank + 1) % world
        with pytest.raises(ValueError, match=f"rank {other} saved this state, and this is rank"):
            load(state | {"rank": other})
        more = state | {"rank": other, "world_size": world + 2}
        if name.startswith("Compressed"):  # shards are others then
            with pytest.raises(ValueError, match=f"the state is of {world + 2} ranks"):
                load(more)
            load(more | {"residuals": {}})
        else:
            load(more)
            load({key: value for key, value in state.items() if key not in ("rank", "world_size")})
        for key in ("rank", "world_size"):
            with pytest.raises(ValueError, match=rf"the state lacks '{key}'; load what {name}\(\)"):
                load({each: value for each, value in state.items() if each != key})
            with pytest.raises(ValueError, match=f"{key} of the state is None; it must be an int"):
                load(state | {key: None})
    dist.barrier()


def states_that_do_not_fit() -> None:
    """An entry of a wrong name, shape or type is named, with what fits, and nothing changes."""
    _, world = me_and_world()
    reducer, codec, power, outer, sharded = states()
    plan = reducer[1]()["bucket_plan"]
    short = torch.zeros(3)
    no_data = torch.empty(WIDTH, WIDTH, device="meta")
    count = sum(parameter.numel() for parameter in net().parameters())
    shapes = [tuple(parameter.shape) for parameter in net().parameters()]
    share = (2 * WIDTH * WIDTH + 2 * WIDTH) // world
    number = "it must be an integer of at least 0"
    cases: list[tuple[Saved, dict[str, Any], str]] = [
        (reducer, {"residuals": {"2.weight": short}}, r"shape \(3,\); here it is .* \(96, 96\)"),
        (reducer, {"residuals": {"no.such": short}}, r"residual of 'no\.such', which has none"),
        (reducer, {"residuals": {"2.weight": 3.0}}, "residual of '2.weight' is 3.0; .* a tensor"),
        (reducer, {"residuals": [short]}, "entry 'residuals' of the state is of class list;"),
        (reducer, {"scale": 0}, "scale of the state is 0; it must be a finite number above 0"),
        (reducer, {"scale": None}, "scale of the state is None"),
        (reducer, {"step": -1}, f"step of the state is -1; {number}"),
        (reducer, {"step": 7, "bucket_plan": [["2.weight"]]}, "bucket_plan has '0.weight' 0 times"),
        (reducer, {"scale": "2", "bucket_plan": plan}, "scale of the state is '2'"),
        (codec, {"residuals": {"no.such": short}}, r"residual of 'no\.such', which has none"),
        (codec, {"residuals": {"2.weight": short}}, r"\(3,\); here it is of shape \(9216,\)"),
        (codec, {"sums": -1}, f"sums of the state is -1; {number}"),
        (sharded, {"sums": {"": None}}, f"of the state is None; {number}"),
        (sharded, {"sums": "3"}, "sums of the state is '3'; it must be a dict"),
        (codec, {"residuals": {"2.weight": None}}, "residual of '2.weight' is None"),
        (codec, {"sums": 9, "residuals": {"2.weight": no_data.flatten()}}, "meta tensor"),
        (power, {"step": 9, "residuals": {"2.weight": no_data}}, "meta tensor"),
        (
            power,
            {"factors": {"2.weight": torch.zeros(3, 96)}},
            r"factor of '2.weight' is of shape \(3, 96\); here it is of shape \(2, 96\)",
        ),
        (power, {"residuals": {"0.weight": short}}, "residual of '0.weight', which has none"),
        (power, {"step": 1.5}, f"step of the state is 1.5; {number}"),
        (power, {"step": 9, "factors": None}, "entry 'factors' of the state is None; it must"),
        (
            outer,
            {"velocity": torch.zeros(count + 1)},
            rf"velocity .* is of shape \({count + 1},\); .* \({count},\), as the parameters",
        ),
        (outer, {"start": torch.zeros(2, 2)}, r"start of the state is of shape \(2, 2\)"),
        (outer, {"velocity": None}, "velocity of the state is None; it must be a tensor"),
        (outer, {"residual": short}, r"residual of the state is of shape \(3,\)"),
        (outer, {"steps": "1"}, f"steps of the state is '1'; {number}"),
        (
            outer,
            {"shapes": [*shapes[:-1], (9,)]},
            r"parameter '4.bias' is of shape \(9,\) in the state; here it is of shape \(8,\)",
        ),
        (outer, {"shapes": shapes[1:]}, "the state has 5 parameters, and here there are 6"),
        (outer, {"optimizer": {"state": {}, "param_groups": []}}, "parameter groups"),
        (sharded, {"residuals": {"no.such": short}}, r"residual of 'no\.such', which has none"),
        (sharded, {"residuals": {"": torch.zeros(share, world)}}, "residual of '' is of shape"),
        (sharded, {"residuals": {"": short}}, rf"\(3,\); here it is of shape \({world}, {share}\)"),
    ]
    for (name, save, load), changes, message in cases:
        before = save()
        with pytest.raises((TypeError, ValueError, NotImplementedError), match=message):
            load(before | changes)
        assert equal(save(), before), (name, changes)
    dist.barrier()


def outer_state_of_fewer_steps() -> None:
    """A state with more steps than `every` makes the next step an outer one."""
    optimizer = OuterOptimizer(torch.optim.SGD(net().parameters(), lr=0.1), every=5)
    optimizer.load_state_dict(optimizer.state_dict() | {"steps": 7})
    optimizer.step()
    assert optimizer.state_dict()["steps"] == 0


def _reducer(group: Any) -> tuple[nn.Module, Any, Any]:
    model = DistributedDataParallel(net(), codec="int4", process_group=group)
    return model, model.reducer_state_dict, model.load_reducer_state_dict


def _codec_state(group: Any) -> tuple[nn.Module, Any, Any]:
    model = TorchDDP(net(), process_group=group)
    state = hooks.CodecState(model, "int4")
    model.register_comm_hook(state, hooks.codec_hook)
    return model, state.state_dict, state.load_state_dict


def _power_sgd(group: Any) -> tuple[nn.Module, Any, Any]:
    model = TorchDDP(net(), process_group=group)
    state = hooks.PowerSgdState(model, start_step=0)
    model.register_comm_hook(state, hooks.power_sgd_hook)
    return model, state.state_dict, state.load_state_dict


LARGE = "2.weight"  # the one parameter with a residual
KINDS: dict[str, Callable[[Any], tuple[nn.Module, Any, Any]]] = {
    "reducer": _reducer,
    "codec_hook": _codec_state,
    "power_sgd_hook": _power_sgd,
}


def _train(model: nn.Module, group: Any, steps: range) -> torch.Tensor:
    """Returns what the ranks still owe of the steps: exact mean gradients minus results."""
    plain = TorchDDP(net(), process_group=group)
    owed = torch.zeros(WIDTH, WIDTH)
    for step in steps:
        for each, factor in ((plain, 1), (model, -1)):
            _backward(each, step)
            gradient = each.get_parameter(f"module.{LARGE}").grad
            assert gradient is not None
            owed.add_(gradient, alpha=factor)
    return owed


def _total(save: Callable[[], Any], group: Any, width: int = WIDTH) -> torch.Tensor:
    """Returns the sum of the ranks' residuals."""
    total: torch.Tensor = save()["residuals"].get(LARGE, torch.zeros(width * width)).clone()
    dist.all_reduce(total, group=group)
    return total.view(width, width)


def other_number_of_ranks(kind: str, before: int, after: int) -> None:
    """Nothing is lost: also what an owner of a share lost of the sum arrives, exactly once.

    Shares are others afterwards. Residuals are in units of the mean, which need no new scale.
    """
    rank, world = me_and_world()
    groups = {n: dist.new_group(list(range(n)), backend="fastgpu") for n in (before, after)}
    states: list[Any] = [None] * world
    owed = torch.zeros(WIDTH, WIDTH)
    state = None
    if rank < before:
        model, save, _ = KINDS[kind](groups[before])
        owed = _train(model, groups[before], range(3))
        state = save()
        torch.testing.assert_close(_total(save, groups[before]), owed, rtol=1e-3, atol=1e-6)
        assert float(owed.abs().max()) > 1e-4
    dist.all_gather_object(states, state)
    dist.broadcast(owed, 0)
    if rank < after:
        model, save, load = KINDS[kind](groups[after])
        mine = states[rank] or states[0] | {"residuals": {}}
        if rank == after - 1:  # takes over the residuals of the ranks that are gone
            for gone in states[after:before]:
                theirs = gone["residuals"][LARGE]
                mine["residuals"][LARGE] = mine["residuals"][LARGE] + theirs
        load(mine)
        torch.testing.assert_close(_total(save, groups[after]), owed, rtol=1e-3, atol=1e-6)
        owed += _train(model, groups[after], range(3, 7))
        torch.testing.assert_close(_total(save, groups[after]), owed, rtol=1e-3, atol=1e-6)
        assert after > 1 or not _total(save, groups[after]).any()  # one rank encodes nothing
    dist.barrier()


def outer_with_other_number_of_ranks() -> None:
    """Its residuals start from zero then, also where they have as many elements."""
    rank, _ = me_and_world()
    pair: Any = dist.new_group([0, 1], backend="fastgpu")
    states: list[Any] = [None] * dist.get_world_size()
    state = None

    def make(group: Any) -> tuple[nn.Parameter, OuterOptimizer]:
        weight = nn.Parameter(torch.zeros(96, 96))  # divides by 2 and by 3
        return weight, OuterOptimizer(
            torch.optim.SGD([weight], lr=1.0), 1, codec="int4", group=group
        )

    if rank < 2:
        weight, outer = make(pair)
        weight.grad = torch.randn(96, 96)
        outer.step()
        state = outer.state_dict()
        assert bool(state["residual"].any())
    dist.all_gather_object(states, state)
    _, outer = make(dist.group.WORLD)
    outer.load_state_dict(states[0])
    assert not bool(outer.state_dict()["residual"].any())
    assert torch.equal(outer.state_dict()["velocity"], states[0]["velocity"])
    # States of earlier versions do not tell the number of ranks, but the length may.
    older = {key: each for key, each in states[0].items() if key not in ("rank", "world_size")}
    outer.load_state_dict(older)
    assert bool(outer.state_dict()["residual"].any())
    outer.load_state_dict(older | {"residual": torch.ones(96 * 96 + 2)})
    assert not bool(outer.state_dict()["residual"].any())
    with pytest.raises(TypeError, match="residual of the state is 3; it must be a tensor"):
        outer.load_state_dict(older | {"residual": 3})


def trainer_with_more_ranks(folder: Path) -> list[float]:
    """A run of two ranks goes on with three, with the same residuals and in the same buckets.

    Returns the losses.
    """
    width = 300
    rank, _ = me_and_world()
    settings: dict[str, Any] = {"checkpoint_every": 4, "batch_size": 12}
    pair: Any = dist.new_group([0, 1], backend="fastgpu")

    def wrapped(group: Any) -> DistributedDataParallel:
        return DistributedDataParallel(
            network(width=width), bucket_cap_mb=0.1, codec="int4", process_group=group
        )

    before = None
    if rank < 2:
        model = wrapped(pair)
        train(model, folder, steps=4, **settings)
        before = _total(model.reducer_state_dict, pair, width)
        assert bool(before.any())
    dist.barrier()
    model = wrapped(dist.group.WORLD)
    train(model, folder, steps=4, resume=True, **settings)  # loads, and makes no step
    after = _total(model.reducer_state_dict, dist.group.WORLD, width)
    assert before is None or torch.equal(after, before)
    train(model, folder, steps=7, resume=True, **settings)
    same_everywhere(list(model.parameters()))
    return [r["loss"] for r in read(folder / "metrics.jsonl") if r["event"] == "train"]


def states_for_ranks() -> None:
    """The states of fewer or more ranks are shared out so that each residual arrives once."""
    rank, _ = me_and_world()
    states: list[Any] = [
        {"residuals": {"a": torch.ones(2) * 10**each}, "bucket_plan": [], "rank": each}
        for each in range(5)
    ]
    for count, expected in (
        (0, None),
        (1, {0: {"a": torch.ones(2)}, 1: {}}[rank]),
        (2, {"a": torch.ones(2) * (1, 10)[rank]}),
        (5, {"a": torch.ones(2) * (10101, 1010)[rank]}),
    ):
        found = saved_states.for_rank(states[:count], None)
        assert equal(found and found["residuals"], expected)
        assert found is None or found["bucket_plan"] == []
    assert saved_states.for_rank([None, None, None], None) is None
    # The place in the list is the rank, also where another rank has no state.
    for some in ([None, *states[1:3]], [None, states[1]]):
        found = saved_states.for_rank(some, None)
        assert found is not None
        assert found["rank"] == rank
        expected = {"a": torch.ones(2) * (100, 10)[rank]} if len(some) + rank > 2 else {}
        assert equal(found["residuals"], expected)
    assert equal(states[0]["residuals"]["a"], torch.ones(2))
