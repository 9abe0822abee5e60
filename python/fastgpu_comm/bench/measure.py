"""Times one call on several backends, turn by turn, and checks what came out.

Callers of a benchmark compare backends, and a shared machine drifts: so the backends alternate in
short runs of calls, in an order that turns round each time, and each gets the same budget of time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fastgpu_comm.bench.collectives import Call
from fastgpu_comm.bench.exchange import Exchange

ROUNDS = 4


@dataclass(frozen=True)
class Budget:
    """How long to measure."""

    seconds: float  # for a call on one backend
    least_calls: int
    most_calls: int
    warmup_calls: int


@dataclass(frozen=True)
class Runner:
    """One backend's call, and how to set every rank off together."""

    backend: str
    call: Call
    barrier: Callable[[], object]
    apart: bool  # a rank could run ahead: each call starts from an untimed barrier
    touch: bool  # each call finds its inputs newly written, and its outputs are read after it


@dataclass
class Measured:
    """What one backend's call gave; `times_us` holds the slowest rank's time of each call."""

    times_us: list[float]
    wrong: int = 0
    error: str = ""


def compare(
    runners: list[Runner], exchange: Exchange, budget: Budget, tolerance: float
) -> dict[str, Measured]:
    """Measures every runner, in turns; returns what each backend gave.

    A backend whose call raises on any rank is left out from there on, on every rank.
    """
    measured = {runner.backend: Measured([]) for runner in runners}
    calls = {}
    for runner in runners:
        result = measured[runner.backend]
        _guarded(exchange, result, _check, runner, tolerance)
        _guarded(exchange, result, _time, runner, budget.warmup_calls)
        calls[runner.backend] = _calls_per_round(result, exchange, budget)
    for turn in range(ROUNDS):
        for runner in runners if turn % 2 == 0 else reversed(runners):
            result = measured[runner.backend]
            _guarded(exchange, result, _time, runner, calls[runner.backend])
    for runner in runners:
        result = measured[runner.backend]
        _guarded(exchange, result, _check, runner, tolerance)
        result.wrong = exchange.total(result.wrong)
        result.times_us = exchange.slowest(result.times_us) if not result.error else []
    return measured


def _guarded(
    exchange: Exchange, result: Measured, action: Callable[..., None], *arguments: object
) -> None:
    """Runs `action` unless the backend has failed before; all ranks learn of a failure."""
    if result.error:
        return
    error = ""
    try:
        action(result, *arguments)
    except Exception as failure:  # whatever a backend raises is a result of the benchmark
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    result.error = exchange.first_error(error)


def _check(result: Measured, runner: Runner, tolerance: float) -> None:
    call = runner.call
    call.fill()
    call.run()
    result.wrong += call.count_wrong(tolerance)
    for content in call.inputs:  # zero stays zero however often it is reduced in place
        content.tensor.zero_()


def _calls_per_round(result: Measured, exchange: Exchange, budget: Budget) -> int:
    """Agrees on how many calls fit the budget, and forgets the warm-up."""
    if result.error:
        return 0
    times = sorted(exchange.slowest(result.times_us))
    result.times_us = []
    estimate = times[len(times) // 2] * 1e-6
    calls = min(max(budget.seconds / max(estimate, 1e-9), budget.least_calls), budget.most_calls)
    return -(-int(calls) // ROUNDS)


def _time(result: Measured, runner: Runner, count: int) -> None:
    run = runner.call.run
    prepare = _preparation(runner)
    times = [0] * count
    runner.barrier()
    if prepare is None:
        for index in range(count):
            start = time.perf_counter_ns()
            run()
            times[index] = time.perf_counter_ns() - start
    else:
        for index in range(count):
            prepare()
            start = time.perf_counter_ns()
            run()
            times[index] = time.perf_counter_ns() - start
    result.times_us += [nanoseconds / 1000 for nanoseconds in times]


def _preparation(runner: Runner) -> Callable[[], object] | None:
    """Returns what comes before each call, untimed; None when the calls run back to back."""
    if runner.touch:
        written = [(content.tensor, content.values()) for content in runner.call.inputs]
        read = [content.tensor for content in runner.call.outputs]

        def touch() -> None:
            for tensor in read:
                tensor.count_nonzero()
            for tensor, values in written:
                tensor.copy_(values)
            runner.barrier()

        return touch
    return runner.barrier if runner.apart else None
