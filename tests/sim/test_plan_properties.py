"""Properties of any plan: it is proven, prices are sane, simulations end and move what it says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_comm.native import Constants, Machine, WorldPlan, algorithms_of, collectives

MOST_RANKS = 12
ROOTED = ("broadcast", "reduce", "gather", "scatter")


@st.composite
def plans(draw: st.DrawFn) -> WorldPlan:
    collective = draw(st.sampled_from(collectives()))
    world = draw(st.integers(1, MOST_RANKS))
    # Hosts in any order and of any size, numbered from 0 without gaps.
    raw = draw(st.lists(st.integers(0, 3), min_size=world, max_size=world))
    dense = {host: index for index, host in enumerate(dict.fromkeys(raw))}
    return WorldPlan(
        collective=collective,
        algorithm=draw(st.sampled_from(algorithms_of(collective))),
        world=world,
        count=draw(st.integers(0, 5 * MOST_RANKS)),
        element_size=draw(st.sampled_from([1, 2, 4, 16])),
        lanes=draw(st.integers(1, 4)),
        chunk_bytes=draw(st.integers(1, 256)),
        shots=draw(st.integers(0, 2)),
        root=draw(st.integers(0, world - 1)) if collective in ROOTED else 0,
        host_of=[dense[host] for host in raw],
    )


@settings(max_examples=150, deadline=None)
@given(plan=plans(), capacity=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_every_plan_is_proven(plan: WorldPlan, capacity: int, seed: int) -> None:
    proof = plan.verify(capacity=capacity, seed=seed)
    assert proof.holds, proof.counterexample


@settings(max_examples=150, deadline=None)
@given(plan=plans(), channel_bytes=st.integers(0, 512))
def test_simulations_end_and_move_the_bytes_of_the_proof(
    plan: WorldPlan, channel_bytes: int
) -> None:
    simulated = plan.simulate(Machine(channel_bytes=channel_bytes))
    sent = [0] * len(simulated.finish_us)
    for link in simulated.links:
        sent[link.source] += link.bytes
    proof = plan.verify()
    assert sent == proof.bytes_sent
    assert all(
        busy <= finish + 1e-9
        for busy, finish in zip(simulated.busy_us, simulated.finish_us, strict=True)
    )
    assert plan.predict_us(Constants()) >= 0


@settings(max_examples=100, deadline=None)
@given(plan=plans(), lanes=st.integers(0, 8), deterministic=st.booleans())
def test_a_choice_is_one_that_there_is(plan: WorldPlan, lanes: int, deterministic: bool) -> None:
    constants = Constants()
    algorithm, chosen_lanes, chunk_bytes, shots = plan.choose(
        constants, lanes=lanes, deterministic=deterministic
    )
    assert algorithm in algorithms_of(plan.collective)
    assert (
        algorithm == "direct" or not deterministic or "direct" not in algorithms_of(plan.collective)
    )
    assert chosen_lanes == lanes or (lanes == 0 and chosen_lanes >= 1)
    assert chunk_bytes >= 4096
    ways = {"all_reduce": (1, 2), "broadcast": (0, 2)} if algorithm == "direct" else {}
    assert shots in ways.get(plan.collective, (0,))
    again = plan.choose(
        Constants.from_text(constants.text()), lanes=lanes, deterministic=deterministic
    )
    assert again == (algorithm, chosen_lanes, chunk_bytes, shots)
