"""PowerSGD: gradients travel as products of two thin matrices. Use it through `hooks`.

A gradient matrix M of n rows and m columns is replaced by P Q, where P is n x r and Q is r x m
(Vogels et al. 2019, arXiv 1905.13727). With M_k the gradient of rank k, divided by the number of
ranks and with its residual added, and Q the result of the last step:

    P   = orthonormal columns that span the sum over k of M_k Q'    first all-reduce,  n r numbers
    Q_k = P' M_k                                                    (Q' is Q transposed)
    residual of rank k = M_k - P Q_k
    Q   = the sum over k of Q_k                                     second all-reduce, m r numbers
    gradient = P Q

The second all-reduce of a bucket needs the result of the first. All ranks must start them in one
order, so nothing is started from a callback: the hook of a bucket starts the bucket's first one,
then waits for the first one of the bucket before, which had the time between two buckets, and
starts its second one. The hook of the last bucket ends all buckets.
"""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn import parallel

from fastgpu_comm import arguments, codecs, reduced, saved_states

# From a parameter's name, shape and dtype; 0 for uncompressed.
RankPolicy = Callable[[str, torch.Size, torch.dtype], int]

_REFRESH_ITERATIONS = 4


class PowerSgdState:
    """The state of `power_sgd_hook`: the last Q and the residual of each compressed parameter.

    Both belong to parameters, and stay with them when torch rebuilds its buckets.

    Attributes:
        step: The number of reduced backward passes.
        bytes_sent: About how many bytes this rank has sent for gradients.
    """

    def __init__(
        self,
        model: parallel.DistributedDataParallel,
        rank: int | RankPolicy = 2,
        *,
        start_step: int = 1000,
        refresh_every: int | None = None,
        min_ratio: float = 2.0,
        seed: int = 0,
    ) -> None:
        """Chooses what is compressed.

        All arguments must be the same on all ranks, which the first backward pass compares.

        Args:
            model: The model that the hook will be registered with.
            rank: The rank r of the products, or a function that returns it for a parameter's name,
                shape and dtype. Only float32 parameters with two or more dimensions and at least
                `codecs.LEAST_ELEMENTS` elements are ever compressed.
            start_step: How many steps are uncompressed first. Early gradients change fast: take at
                least the warm-up of the learning rate.
            refresh_every: Every so many steps one is uncompressed: it delivers the residuals, and
                the next Q is computed from the whole gradient. None: never.
            min_ratio: Parameters that shrink by less than this factor stay uncompressed.
            seed: Seeds the first Q, which is random if `start_step` is 0.

        Raises:
            TypeError: The model is not wrapped, or the function takes other arguments.
            ValueError: An argument is out of range, or no number, or the parameters are not on
                the CPU.
        """
        if not callable(rank):
            arguments.check_integer("rank", rank, 1, ", or a function")
        else:
            arguments.check_policy("rank", rank)
        arguments.check_integer("start_step", start_step, 0)
        if refresh_every is not None:
            arguments.check_integer("refresh_every", refresh_every, 2, ", or None")
        if not arguments.is_number(min_ratio):
            raise ValueError(f"min_ratio is {min_ratio!r}; it must be a finite number")
        arguments.check_integer("seed", seed, 0)
        self._names, parameters, sparse = reduced.named(model)
        codecs.refuse_device(model.device_type, "power_sgd_hook")
        self.step = 0
        self.bytes_sent = 0
        self._model = weakref.ref(model)  # which holds the hook, and so this object
        self._group = model.process_group  # of the last pass
        self._start_step = start_step
        self._refresh_every = refresh_every
        self._seed = seed
        self._residuals: dict[str, torch.Tensor] = {}  # in the shapes of `_shapes`
        self._factors: dict[str, torch.Tensor] = {}  # Q, by parameter
        self._shapes: dict[str, tuple[int, int]] = {}  # as matrices; of compressed parameters
        self._ranks: dict[str, int] = {}
        for name, parameter, skip in zip(self._names, parameters, sparse, strict=True):
            wanted = rank(name, parameter.shape, parameter.dtype) if callable(rank) else rank
            if callable(rank):
                arguments.check_integer(f"the rank of {name!r}", wanted, 0)
            small = parameter.dim() < 2 or parameter.numel() < codecs.LEAST_ELEMENTS
            if wanted < 1 or skip or small or parameter.dtype != torch.float32:
                continue
            rows = _rows_of(parameter)
            columns = parameter.numel() // rows
            taken = min(wanted, rows, columns)
            if rows * columns >= min_ratio * taken * (rows + columns):
                self._shapes[name] = (rows, columns)
                self._ranks[name] = taken
        self._pending: list[_Reduction] = []  # of this backward pass
        self._uncompared: str | None = f"{start_step=}, {refresh_every=}, {seed=}"

    @property
    def compressed(self) -> list[str]:
        """The names of the parameters that are compressed."""
        return list(self._ranks)

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of this rank's state, for a checkpoint. Each rank saves its own."""
        state = {
            "step": self.step,
            "residuals": {name: each.clone() for name, each in self._residuals.items()},
            "factors": {name: each.clone() for name, each in self._factors.items()},
        }
        return state | saved_states.origin(self._group)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, between two steps.

        The number of ranks may be another than that of the saved run.

        Raises:
            TypeError: The state or an entry is of another type.
            ValueError: It lacks an entry, is of another model or another rank r, or another member
                of an equally large group saved it; nothing has changed then.
        """
        keys = ("step", "residuals", "factors")
        saved_states.check(state, keys, "PowerSgdState.state_dict()", self._group)
        step = saved_states.counter(state, "step")
        shapes = {name: (rank, self._shapes[name][1]) for name, rank in self._ranks.items()}
        saved_states.check_tensors("residual", state["residuals"], self._shapes)
        saved_states.check_tensors("factor", state["factors"], shapes)
        residuals = saved_states.copied(state["residuals"])
        factors = saved_states.copied(state["factors"])
        self.step, self._residuals, self._factors = step, residuals, factors

    def _compare(self) -> None:
        """Checks, in the first pass, that the ranks compress alike. A collective."""
        if self._uncompared is not None:
            matrices = [
                f"{name}: {rank=}, {self._shapes[name]}" for name, rank in self._ranks.items()
            ]
            mine = [self._uncompared, *matrices]
            reduced.compare_arguments(self._group, mine, "hooks.PowerSgdState")
            self._uncompared = None

    def _is_exact(self, step: int) -> bool:
        """Tells whether all gradients of a step are uncompressed."""
        every = self._refresh_every
        return step < self._start_step or (every is not None and step % every == 0)

    def _reduce(self, bucket: GradBucket) -> Future[torch.Tensor]:
        from fastgpu_comm import native

        model = self._model()
        assert model is not None
        self._group = model.process_group
        self._compare()
        # Not bucket.parameters() nor bucket.index(), which may be wrong: csrc/torch/reducer.
        buckets = native.buckets_of(model.reducer)
        parameters = native.parameters_of(model.reducer, bucket)
        position = buckets.index(parameters)
        if position == 0:
            self._pending = []  # a backward pass that failed leaves some
        names = [self._names[index] for index in parameters]
        reduction = _Reduction(self, model.process_group, bucket, names)
        reduction.start()
        if self._pending:
            self._pending[-1].project()
        self._pending.append(reduction)
        if position + 1 == len(buckets):
            pending, self._pending = self._pending, []
            reduction.project()
            for each in pending:
                each.finish()
            self.step += 1
        return reduction.future

    def _factor(self, name: str) -> torch.Tensor:
        """Returns the Q to start from, with orthonormal rows."""
        factor = self._factors.get(name)
        if factor is None or not bool(factor.any()):
            # Zero gradients gave a Q of zero, from which the next would be zero as well.
            # torch takes seeds of 64 bits. The modulus is a prime: large seeds stay different.
            seed = (self._seed * 1_000_003 + self.step) % (2**61 - 1)
            generator = torch.Generator().manual_seed(seed)
            shape = self._ranks[name], self._shapes[name][1]
            factor = torch.randn(shape, generator=generator, dtype=torch.float32)
        return _orthonormal(factor.T).T


def power_sgd_hook(state: PowerSgdState, bucket: GradBucket) -> Future[torch.Tensor]:
    """Reduces a bucket to the mean over the ranks. Register it with torch's class or ours.

        model.register_comm_hook(hooks.PowerSgdState(model), hooks.power_sgd_hook)

    It works on any number of buckets. Ranks end with the same bits if they have the same kind of
    processor and number of threads, which decide how torch rounds matrix products.

    Numbers that are not finite reach all ranks: such a matrix is NaN as a whole, and leaves its
    residual and Q as they were.

    Raises:
        RuntimeError: On all ranks, in the first backward pass: their states differ.
        TypeError: The state is no PowerSgdState.
    """
    arguments.check_state_of_hook("power_sgd_hook", state, PowerSgdState, "model")
    return state._reduce(bucket)


@dataclasses.dataclass
class _Matrix:
    """A compressed gradient: its memory in the bucket, and its parts of the all-reduces."""

    name: str
    whole: torch.Tensor  # n x m
    left: torch.Tensor  # P, n x r
    right: torch.Tensor  # Q, r x m


class _Reduction:
    """The reduction of a bucket. start(), project() and finish() run in one order on all ranks."""

    def __init__(
        self, state: PowerSgdState, group: Any, bucket: GradBucket, names: list[str]
    ) -> None:
        self.future: Future[torch.Tensor] = Future()
        self._state = state
        self._group = group
        self._buffer = bucket.buffer()
        self._is_exact = state._is_exact(state.step) or self._buffer.is_sparse or group.size() == 1
        self._works: list[Any] = []  # that only finish() waits for
        self._exact: list[torch.Tensor] = []
        self._matrices: list[_Matrix] = []
        gradients = [] if self._buffer.is_sparse else bucket.gradients()
        compressed: list[tuple[str, torch.Tensor]] = []
        for name, gradient in zip(names, gradients, strict=False):
            if name in state._ranks:
                compressed.append((name, gradient.view(state._shapes[name])))
            else:
                self._exact.append(gradient)
        ranks = [state._ranks[name] for name, _ in compressed]
        shapes = [whole.shape for _, whole in compressed]
        # The parts of an all-reduce lie together in memory.
        left = sum(n * r for (n, _), r in zip(shapes, ranks, strict=True))
        self._left = torch.empty(left, dtype=torch.float32)
        count = sum(m * r for (_, m), r in zip(shapes, ranks, strict=True))
        exact = sum(gradient.numel() for gradient in self._exact)
        self._second = torch.empty(count + exact, dtype=self._buffer.dtype)
        self._flat = self._second[count:]  # of `_exact`
        left = right = 0
        for (name, whole), r in zip(compressed, ranks, strict=True):
            n, m = whole.shape
            self._matrices.append(
                _Matrix(
                    name,
                    whole,
                    self._left[left : left + n * r].view(n, r),
                    self._second[right : right + m * r].view(r, m),
                )
            )
            left, right = left + n * r, right + m * r

    def start(self) -> None:
        """Starts the first all-reduce, or that of the whole bucket."""
        self._buffer.div_(self._group.size())
        for matrix in self._matrices:
            residual = self._state._residuals.get(matrix.name)
            if residual is not None:
                matrix.whole.add_(residual)
        if self._is_exact:
            self._works.append(self._all_reduce(self._buffer))
            return
        for matrix in self._matrices:
            torch.mm(matrix.whole, self._state._factor(matrix.name).T, out=matrix.left)
        if self._matrices:
            self._first = self._all_reduce(self._left)

    def project(self) -> None:
        """Waits for the first all-reduce and starts the second, with what is not compressed."""
        if self._is_exact:
            return
        if self._matrices:
            self._first.wait()
        for matrix in self._matrices:
            finite = bool(matrix.left.isfinite().all())
            matrix.left.copy_(_orthonormal(matrix.left)) if finite else matrix.left.fill_(torch.nan)
            torch.mm(matrix.left.T.contiguous(), matrix.whole, out=matrix.right)
            # The rest of the gradient stays here until finish() writes its result.
            matrix.whole.addmm_(matrix.left, matrix.right, alpha=-1)
        if self._exact:
            torch.cat([gradient.reshape(-1) for gradient in self._exact], out=self._flat)
        self._works.append(self._all_reduce(self._second))

    def finish(self) -> None:
        """Waits for the rest, and writes the gradients."""
        for work in self._works:
            work.wait()
        if self._is_exact:
            for matrix in self._matrices:
                self._end_exact(matrix)
        else:
            for matrix in self._matrices:
                self._keep(matrix)
                torch.mm(matrix.left, matrix.right, out=matrix.whole)
            reduced.spread(self._flat, self._exact)
        result = self._buffer
        if result.is_sparse:
            result = self._works[0].get_future().wait()[0]
        self.future.set_result(result)

    def _keep(self, matrix: _Matrix) -> None:
        """Keeps the residual and Q, unless a rank's numbers or products are not finite."""
        state = self._state
        if not bool(matrix.right.isfinite().all()):
            return
        state._factors[matrix.name] = matrix.right.clone()
        if all(bool(extreme.isfinite()) for extreme in torch.aminmax(matrix.whole)):
            residual = state._residuals.setdefault(matrix.name, torch.empty_like(matrix.whole))
            residual.copy_(matrix.whole)

    def _end_exact(self, matrix: _Matrix) -> None:
        """Ends an uncompressed step: the residual was delivered, and the next Q may be needed."""
        state = self._state
        if not bool(matrix.whole.isfinite().all()):
            return
        state._residuals.pop(matrix.name, None)
        if state._is_exact(state.step + 1):
            return
        factor = state._factor(matrix.name)
        for _ in range(_REFRESH_ITERATIONS):  # towards the largest singular vectors
            left = _orthonormal(matrix.whole @ factor.T)
            factor = left.T.contiguous() @ matrix.whole
        if bool(factor.isfinite().all()):
            state._factors[matrix.name] = factor

    def _all_reduce(self, tensor: torch.Tensor) -> Any:
        world = self._group.size()
        if not tensor.is_sparse:
            self._state.bytes_sent += 2 * (world - 1) * tensor.nbytes // world
        return dist.all_reduce(tensor, group=self._group, async_op=True)


def _rows_of(parameter: torch.Tensor) -> int:
    """Returns the size of the outermost dimension of a gradient's memory in its bucket."""
    flat = torch.empty(parameter.numel(), device="meta")
    laid_out = reduced.in_shape(flat, parameter)
    return laid_out.shape[max(range(laid_out.dim()), key=laid_out.stride)]


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Returns orthonormal columns that span at least the same space.

    Householder's QR needs no epsilon: it replaces columns that are zero or linearly dependent by
    unit vectors. It is also faster than Gram-Schmidt in torch.
    """
    basis: torch.Tensor = torch.linalg.qr(columns)[0]
    return basis
