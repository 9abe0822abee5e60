"""Times one call on several backends, alternating between them, and checks the results.

The speed of a shared machine drifts. So the backends take turns in short runs of calls, in an order
that is reversed each time, and each backend gets the same budget of time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastgpu_comm.bench.calls import Call
from fastgpu_comm.bench.exchange import Exchange

ROUNDS = 4
MOST_CALLS = 4000


@dataclass(frozen=True)
class Budget:
    """How long to measure one call on one backend.

    Attributes:
        seconds: The time of all calls together.
        least_calls: The number of calls, if they take longer than that.
        warmup_calls: The number of calls before, which do not count.
        calls: The number of calls, whatever time they take; None leaves it to `seconds`.
    """

    seconds: float
    least_calls: int
    warmup_calls: int
    calls: int | None = None


@dataclass(frozen=True)
class Runner:
    """A call on one backend.

    Attributes:
        backend: The backend's name.
        call: The prepared call.
        barrier: Waits for all ranks, on the same backend.
        separate: A barrier, not timed, precedes each call, because a rank could run ahead.
        touch: Before each call the inputs are written, and after it the outputs are read.
        finish: Waits until the device has done all work; a call ends with it. None on the CPU.
    """

    backend: str
    call: Call
    barrier: Callable[[], object]
    separate: bool
    touch: bool
    finish: Callable[[], object] | None = None


@dataclass
class Measured:
    """The outcome of a call on one backend; each time is that of the slowest rank."""

    times_us: list[float]
    wrong: int = 0
    error: str = ""


def compare(
    runners: Sequence[Runner], exchange: Exchange, budget: Budget, tolerance: float
) -> dict[str, Measured]:
    """Measures every runner in turns; returns the outcomes by backend.

    If a backend's call raises on any rank, every rank stops calling this backend.
    """
    measured = {runner.backend: Measured([]) for runner in runners}
    calls = {}
    for runner in runners:
        result = measured[runner.backend]
        _guarded(exchange, result, _check, runner, tolerance)
        _guarded(exchange, result, _time, runner, max(1, budget.warmup_calls))
        calls[runner.backend] = _calls_to_make(result, exchange, budget)
    for turn in range(ROUNDS):
        for runner in runners if turn % 2 == 0 else reversed(runners):
            result = measured[runner.backend]
            # The rounds share the calls: over all turns this sums up to the number of calls.
            _guarded(exchange, result, _time, runner, (calls[runner.backend] + turn) // ROUNDS)
    for runner in runners:
        result = measured[runner.backend]
        _guarded(exchange, result, _check, runner, tolerance)
        result.wrong = int(exchange.total(result.wrong))
        result.times_us = exchange.slowest(result.times_us) if not result.error else []
    return measured


def _guarded(
    exchange: Exchange, result: Measured, action: Callable[..., None], *arguments: object
) -> None:
    """Runs `action` unless the backend has failed before; reports a failure to all ranks."""
    if result.error:
        return
    error = ""
    try:
        action(result, *arguments)
    except Exception as failure:  # any error of a backend is part of the result
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    result.error = exchange.first_error(error)


def _check(result: Measured, runner: Runner, tolerance: float) -> None:
    result.wrong += runner.call.check(tolerance)


def _calls_to_make(result: Measured, exchange: Exchange, budget: Budget) -> int:
    """Returns how many calls fit the budget, the same on all ranks; drops the warm-up's times."""
    if result.error:
        return 0
    times = sorted(exchange.slowest(result.times_us))
    result.times_us = []
    if budget.calls is not None:
        return budget.calls
    estimate = times[len(times) // 2] * 1e-6
    affordable = min(budget.seconds / max(estimate, 1e-9), MOST_CALLS)
    return max(int(affordable), budget.least_calls)


def _time(result: Measured, runner: Runner, count: int) -> None:
    run = _finished(runner)
    prepare = _preparation(runner)
    times = [0] * count
    runner.barrier()
    for index in range(count):
        if prepare is not None:
            prepare()
        start = time.perf_counter_ns()
        run()
        times[index] = time.perf_counter_ns() - start
    result.times_us += [nanoseconds / 1000 for nanoseconds in times]


def _finished(runner: Runner) -> Callable[[], object]:
    """Returns the call, with what it waits for on a device."""
    run, finish = runner.call.run, runner.finish
    if finish is None:
        return run

    def run_to_end() -> None:
        run()
        finish()

    return run_to_end


def _preparation(runner: Runner) -> Callable[[], object] | None:
    """Returns the untimed preparation of each call; None if the calls run back to back."""
    if not runner.touch:
        return runner.barrier if runner.separate else None
    written = [(content.tensor, content.values()) for content in runner.call.inputs]
    read = [content.tensor for content in runner.call.outputs]

    def touch() -> None:
        for tensor in read:
            tensor.count_nonzero()
        for tensor, values in written:
            tensor.copy_(values)
        if runner.finish is not None:
            runner.finish()
        runner.barrier()

    return touch
