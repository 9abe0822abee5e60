"""Chooses the codec and size of gradient buckets by trying: DistributedDataParallel(codec="auto").

A pass is a backward pass that reduces gradients. Its time runs from the end of the forward pass to
the end of its last reduction. The chooser lets some passes run with each choice of codecs, measures
them, and keeps the one that is fastest by a clear margin. Then it tries smaller buckets likewise.

All ranks decide alike without messages of their own decisions. The times of a pass are reduced to
their minimum over the ranks while the next pass runs. The minimum is the time of the rank that came
last, which did not wait for others. All ranks then compute the same choice from the same numbers.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fastgpu_comm import buckets, codecs
from fastgpu_comm.break_even import BITS, break_even

if TYPE_CHECKING:
    from fastgpu_comm.native import Backend, GradientReducer

_LOG = logging.getLogger(__name__)

AUTO = codecs.AUTO
# The choices, the least loss first. Both codecs have error feedback and suit any optimizer.
CANDIDATES = ("none", "int8", "int4")
# The parameters that may be compressed are those that a codec's name stands for.
POLICY = codecs.for_matrices(codecs.int8)
LIMITS = (8 << 20, 3 << 20)  # bytes of smaller buckets

WARM_UP = 3  # passes before anything is measured; torch rebuilds its buckets after the first
MEASURED = 2  # measured passes of a choice in a round, after one that is not
ROUNDS = 5
SIZE_ROUNDS = 3
HOPELESS = 1.15  # a choice that takes so many times as long as the fastest is not tried again
MARGIN = 0.03  # the least gain for which a choice yields to more loss or smaller buckets
EVERY = 500  # passes after which the chosen codecs are measured again
CHANGED = 0.2  # the change of their time for which all choices are tried again


def find(codec: codecs.Codec | str | codecs.Policy | None) -> codecs.Codec | codecs.Policy | None:
    """Returns what DistributedDataParallel's argument stands for; `POLICY` for "auto".

    Raises:
        TypeError: It is neither a codec, a name nor a function of three arguments.
        ValueError: There is no codec of that name; the message lists those that there are.
    """
    codecs.check_argument(codec)
    if callable(codec):
        return codec
    return POLICY if codec == AUTO else codecs.find(codec, others=(AUTO,))


class Choice(NamedTuple):
    """The codecs and the bucket size of a pass."""

    codecs: tuple[str, ...]  # by bucket, before buckets are split: a name of CANDIDATES
    limit: int | None = None  # bytes of the parts that buckets are split into; None: not split


class CodecChooser:
    """Sets a model's buckets and their codecs before each pass.

    Every rank has a chooser. Not thread-safe; called where buckets may change, between a backward
    pass and the next forward pass.
    """

    def __init__(
        self,
        gradients: GradientReducer,
        reducer: torch.distributed.Reducer,
        names: Sequence[str],
        parameters: Sequence[torch.Tensor],
        allowed: Sequence[codecs.Codec | None],
    ) -> None:
        """Waits for restart().

        Args:
            gradients: Reduces the buckets.
            reducer: torch's reducer, which fills them.
            names: The names of the parameters, by the reducer's index.
            parameters: The parameters, by the same index.
            allowed: None for a parameter that stays uncompressed, by the same index.
        """
        self._gradients = gradients
        self._reducer = reducer
        self._names = names
        self._bytes = [each.numel() * each.element_size() for each in parameters]
        self._encodable = [codec is not None for codec in allowed]
        self._buckets: buckets.Buckets = []  # whole, before any split; empty until torch has them
        self._set: buckets.Buckets = []  # set by this chooser last

    def restart(self, backend: Backend, plan: Sequence[Sequence[str]] | None = None) -> None:
        """Goes back to uncompressed buckets and decides anew, for a group that may be another.

        The residuals join the next gradients. All ranks must call it before the same pass.

        Args:
            backend: Of the group.
            plan: The buckets, by names of parameters, which then keep their sizes; None: torch's.
        """
        self._world, self._logs = backend.size(), backend.rank() == 0
        self._seen = -1  # gradients.passes, when before_pass last did something
        self.tries = not backend.on_one_host
        self._given = plan is not None
        if plan is not None:
            indices = {name: index for index, name in enumerate(self._names)}
            self._buckets = [[indices[name] for name in bucket] for bucket in plan]
        elif not self.tries or self._reducers_buckets() != self._set:
            self._buckets = []
        self._measured: dict[Choice, list[torch.Tensor]] = {}
        self._chosen = Choice(())
        self._settled = False
        self._reason = "not decided yet"
        self._measuring: Choice | None = None  # by the pass that runs now
        self._awaited: Choice | None = None  # its times are being reduced over the ranks
        self._gradients.set_encodings([codecs.encoding_of(None)] * len(self._names))
        self._steps = self._decide() if self.tries else itertools.repeat(None)
        if not self.tries:
            self._settle(Choice(()), "all ranks share memory, which a codec hardly outruns")

    @property
    def plan(self) -> list[list[str]] | None:
        """The chosen buckets, before they are split by codec, by names; None: not known yet."""
        if not self._buckets:
            return None
        return [[self._names[i] for i in bucket] for bucket in self._parts(self._chosen.limit)]

    @torch._disable_dynamo
    def before_pass(self, joined: bool = False) -> None:
        """Sets the buckets and codecs of the next pass. Repeated calls before one pass are alike.

        Args:
            joined: This rank has no more data (torch's join) and only takes part.
        """
        if self._gradients.passes == self._seen:
            return
        self._seen = self._gradients.passes
        agreed = self._gradients.take_least()
        if agreed is not None and self._awaited is not None and math.isfinite(_time(agreed)):
            self._measured.setdefault(self._awaited, []).append(agreed)
        self._awaited = self._measuring
        if self._measuring is not None:
            self._gradients.least_of(self._times(joined))
        self._measuring = next(self._steps)

    def _times(self, joined: bool) -> torch.Tensor:
        """Returns when each bucket of the last pass was started, and when it was complete."""
        count = len(self._buckets)
        times = torch.zeros(2, count, dtype=torch.float64)
        lead_s = self._gradients.lead_s
        bucket_of = {index: n for n, bucket in enumerate(self._buckets) for index in bucket}
        started = [math.inf] * count
        for part in self._gradients.stats():
            bucket = bucket_of[part["parameters"][0]]
            started[bucket] = min(started[bucket], lead_s + part["launched_s"])
            done_s = lead_s + part["done_s"] if part["done_s"] > 0 and not joined else math.inf
            times[1, bucket] = max(float(times[1, bucket]), done_s)
        times[0] = torch.tensor([0.0 if each == math.inf else each for each in started])
        return times

    def _decide(self) -> Iterator[Choice | None]:
        """Yields, before each pass, the choice to measure, or None for none."""
        yield from itertools.repeat(None, WARM_UP)
        if not self._given and self._reducers_buckets() != self._set:  # torch has rebuilt them
            self._buckets = self._reducers_buckets()
        if not any(self._encodable):
            self._settle(self._uniform("none"), "no parameter is large enough for a codec")
            yield from itertools.repeat(None)
        while True:
            yield from self._search()
            before = now = self._time_of(self._chosen)
            while abs(now - before) <= CHANGED * before:
                yield from itertools.repeat(None, EVERY)
                kept = self._measured.pop(self._chosen)
                yield from self._try(self._chosen)
                yield None  # brings the last measurement
                now = self._time_of(self._chosen)
                self._measured[self._chosen] = kept

    def _search(self) -> Iterator[Choice | None]:
        """Tries the choices and settles for one."""
        before = self._chosen
        none, *others = dict.fromkeys(self._uniform(name) for name in CANDIDATES)
        self._settled, self._reason = False, "the choices are being tried"
        self._measured.clear()
        yield from self._try(none)
        yield None
        exposed = self._exposed(none) if none in self._measured else 0
        if exposed <= MARGIN:
            self._settle(none, f"backward hides all but {exposed:.1%} of an uncompressed pass")
            return
        for choice in others:
            yield from self._try(choice)
        yield None
        alive = self._near([none, *others], HOPELESS)
        alive += self._partly(alive)
        for _ in range(ROUNDS - 1):
            if len(alive) == 1:
                break
            for choice in alive:
                yield from self._try(choice)
            yield None
            alive = self._near(alive, HOPELESS)
        best = self._best(self._measured, before._replace(limit=None))
        yield from self._try_sizes(best)
        sizes = [choice for choice in self._measured if choice.codecs == best.codecs]
        self._settle(self._best(sizes, before), self._comparison())

    def _try(self, choice: Choice) -> Iterator[Choice | None]:
        self._use(choice)
        yield None
        yield from itertools.repeat(choice, MEASURED)

    def _try_sizes(self, choice: Choice) -> Iterator[Choice | None]:
        """Tries smaller buckets if they can gain enough: at most the time after backward."""
        pairs = itertools.pairwise([None, *LIMITS])
        limits = [limit for last, limit in pairs if self._parts(limit) != self._parts(last)]
        if self._given or not limits or self._exposed(choice) <= MARGIN:
            return
        for _ in range(SIZE_ROUNDS):
            for limit in [None, *limits]:
                yield from self._try(choice._replace(limit=limit))
        yield None
        del self._measured[choice][: -SIZE_ROUNDS * MEASURED]  # the link may have changed since

    def _partly(self, alive: Sequence[Choice]) -> list[Choice]:
        """Returns the fastest choice without codecs in buckets that backward hides anyway."""
        whole = min(alive, key=self._time_of)
        none = self._uniform("none")
        started = self._median(whole)[0].tolist()
        plain_s, encoded_s = self._durations(none), self._durations(whole)

        def end(names: Sequence[str]) -> float:
            end_s = 0.0
            for bucket, codec in enumerate(names):
                taken_s = plain_s if codec == "none" else encoded_s
                end_s = max(end_s, started[bucket]) + taken_s[bucket]
            return end_s

        part = whole.codecs
        for bucket in range(len(part)):
            trial = (*part[:bucket], "none", *part[bucket + 1 :])
            if end(trial) <= 1.005 * end(whole.codecs):
                part = trial
        return [] if Choice(part) in self._measured else [Choice(part)]

    def _near(self, choices: Iterable[Choice], factor: float) -> list[Choice]:
        """Returns the choices that take at most `factor` times as long as the fastest."""
        times = {choice: self._time_of(choice) for choice in choices}
        return [choice for choice in times if times[choice] <= factor * min(times.values())]

    def _best(self, choices: Iterable[Choice], before: Choice) -> Choice:
        """Returns the choice with the least loss of those within the margin of the fastest.

        If losses are equal, the choice that was tried first wins: it has the largest buckets.
        """
        near = self._near(choices, 1 + MARGIN)
        return before if before in near else max(near, key=self._bits)

    def _settle(self, choice: Choice, reason: str) -> None:
        changed = choice != self._chosen or not choice.codecs
        self._chosen, self._settled, self._reason = choice, True, reason
        if choice.codecs:  # else the buckets stay as they are
            self._use(choice)
        if changed and self._logs:
            rates = [f"{c} {break_even(c, self._world) / 1e9:.1f}" for c in CANDIDATES[1:]]
            _LOG.info(
                "codec auto takes %s: %s. By the speed of the processor a codec pays on a link "
                "below, in GB/s: %s.",
                self._name(choice),
                reason,
                ", ".join(rates),
            )

    def _reducers_buckets(self) -> list[list[int]]:
        from fastgpu_comm import native

        return native.buckets_of(self._reducer)

    def _parts(self, limit: int | None) -> buckets.Buckets:
        return buckets.split_by_size(self._buckets, self._bytes, limit)

    def _use(self, choice: Choice) -> None:
        from fastgpu_comm import native

        encodings = [codecs.encoding_of(None)] * len(self._names)
        encoded = [False] * len(self._names)
        for bucket, codec in zip(self._buckets, choice.codecs, strict=True):
            for index in bucket:
                if codec != "none" and self._encodable[index]:
                    encodings[index] = codecs.encoding_of(codecs.find(codec))
                    encoded[index] = True
        self._gradients.set_encodings(encodings)
        self._set = buckets.split_by_kind(self._parts(choice.limit), encoded)
        if self._set != self._reducers_buckets():
            native.set_buckets(self._reducer, self._set)

    def _uniform(self, codec: str) -> Choice:
        return Choice(
            tuple(
                codec if any(self._encodable[index] for index in bucket) else "none"
                for bucket in self._buckets
            )
        )

    def _name(self, choice: Choice) -> str:
        name = next((codec for codec in choice.codecs if codec != "none"), "none")
        if name != "none" and choice.codecs != self._uniform(name).codecs:
            name += " in some buckets"
        return name if choice.limit is None else f"{name} in parts of {choice.limit >> 20} MiB"

    def _bits(self, choice: Choice) -> float:
        return sum(
            self._bytes[index] * BITS[codec]
            for bucket, codec in zip(self._buckets, choice.codecs, strict=True)
            for index in bucket
        )

    def _time_of(self, choice: Choice) -> float:
        return _lower_quartile(map(_time, self._measured.get(choice, [])))

    def _median(self, choice: Choice) -> torch.Tensor:
        """Returns when each bucket was started and complete, as medians over passes."""
        return torch.stack(self._measured[choice]).quantile(0.5, dim=0)

    def _durations(self, choice: Choice) -> list[float]:
        """Returns how long each bucket kept the link busy: buckets are reduced in order."""
        started, done = self._median(choice).tolist()
        before = [0.0, *itertools.accumulate(done, max)]
        return [max(0.0, d - max(s, b)) for s, d, b in zip(started, done, before, strict=False)]

    def _exposed(self, choice: Choice) -> float:
        """Returns the share of a pass after the backward computation."""
        starts = [float(times[0].max()) for times in self._measured[self._uniform("none")]]
        return 1 - _lower_quartile(starts) / self._time_of(choice)

    def _comparison(self) -> str:
        found = {self._name(choice): self._time_of(choice) for choice in self._measured}
        return "a pass takes " + ", ".join(f"{t:.4f} s with {name}" for name, t in found.items())

    def report(self) -> dict[str, Any]:
        """Returns the choice and the measurements behind it.

        Returns:
            `settled`: False while choices are tried.
            `reason`: Why the choice was made, in words.
            `pass_s`: By choice of codecs and bucket size, the time of a pass: the lower quartile of
                its passes, because other programs can only make a pass longer.
            `limit_bytes`: The most bytes of the parts of buckets; None: buckets are not split.
            `break_even_bytes_per_s`: By codec, see `break_even`.
            `buckets`: For each bucket, before it is split, its `parameters`, `codec` and `bytes`;
                the `seconds` for which it kept the link busy, by codec; and `link_bytes_per_s`, the
                rate at which its bytes travelled uncompressed; None if that was not measured.
            All times are those of the rank that came last.
        """
        durations = {
            self._name(choice): self._durations(choice)
            for choice in self._measured
            if choice in [self._uniform(codec) for codec in CANDIDATES]
        }
        described = []
        for number, bucket in enumerate(self._buckets or self._reducers_buckets()):
            size = sum(self._bytes[index] for index in bucket)
            seconds = {name: taken[number] for name, taken in durations.items()}
            sent = size * 2 * (self._world - 1) / self._world
            described.append(
                {
                    "parameters": [self._names[index] for index in bucket],
                    "codec": self._chosen.codecs[number] if self._chosen.codecs else "none",
                    "bytes": size,
                    "seconds": seconds,
                    "link_bytes_per_s": sent / seconds["none"] if seconds.get("none") else None,
                }
            )
        return {
            "settled": self._settled,
            "reason": self._reason,
            "pass_s": {self._name(choice): self._time_of(choice) for choice in self._measured},
            "limit_bytes": self._chosen.limit,
            "break_even_bytes_per_s": {c: break_even(c, self._world) for c in CANDIDATES[1:]},
            "buckets": described,
        }


def _time(times: torch.Tensor) -> float:
    return float(times[1].max())  # when all buckets were complete


def _lower_quartile(values: Iterable[float]) -> float:
    """Returns the lower quartile: other programs only ever make a pass longer. inf of nothing."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 4] if ordered else math.inf
