"""OuterOptimizer: ranks train apart for many steps, and then agree (DiLoCo, arXiv 2311.08105)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from fastgpu_comm import arguments, codecs, reduced, saved_states
from fastgpu_comm.encoded import EncodedSum


class OuterOptimizer(torch.optim.Optimizer):
    """Wraps a rank's optimizer: communicates once in many steps instead of in each.

    Each rank trains its own copy of the model, without DistributedDataParallel. After `every`
    steps, with `start` the parameters that all ranks had after the last outer step, and `mine`
    those of a rank now:

        difference = the mean over the ranks of (start - mine)
        velocity   = momentum * velocity + difference
        start      = start - lr * (difference + momentum * velocity)     Nesterov's step
        mine       = start                                               the same bits on all ranks

    The wrapped optimizer keeps its own state, such as Adam's moments, on each rank. Buffers of the
    model stay apart. Threading: as the wrapped optimizer.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 100,
        *,
        lr: float = 0.7,
        momentum: float = 0.9,
        codec: codecs.Codec | str | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Gives all ranks the parameters of the group's first rank. A collective.

        Args:
            optimizer: This rank's optimizer. All parameters must be on one device. A scheduler
                may have this optimizer or the wrapper: they share `param_groups`.
            every: The number of steps between outer steps; the same on all ranks.
            lr: The outer learning rate. With 1, and momentum 0, parameters are averaged.
            momentum: The outer momentum.
            codec: How differences travel: a name, or an object of `fastgpu_comm.codecs`; None for
                float32. With `feedback`, what encoding loses is added to the next difference.
            group: The process group, of any backend; None for the default group.

        Raises:
            TypeError: `optimizer` is no optimizer, or `group` no process group.
            ValueError: An argument is out of range, or the codec is unknown or needs the CPU.
            RuntimeError: Arguments or parameters differ between the ranks; raised on all of them.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise arguments.wrong_type("optimizer", optimizer, "a torch.optim.Optimizer to wrap")
        arguments.check_integer("every", every, 1)
        if not arguments.is_number(lr) or lr <= 0:
            raise ValueError(f"lr is {lr!r}; it must be a finite number above 0")
        if not arguments.is_number(momentum) or not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum!r}; it must be at least 0 and below 1")
        if group is not None and not isinstance(group, dist.ProcessGroup):
            wanted = "a process group with this rank, or None for the default group"
            raise arguments.wrong_type("group", group, wanted)
        # Shares the groups, so that a learning rate set here is set there.
        super().__init__(optimizer.param_groups, {})
        self.optimizer = optimizer
        self.state = optimizer.state
        self.every = every
        self.outer_lr = lr
        self.momentum = momentum
        self._codec = codecs.find(codec)
        codecs.refuse_options(self._codec, "OuterOptimizer")
        self._group = group or dist.distributed_c10d._get_default_group()
        self._parameters = [each for some in self.param_groups for each in some["params"]]
        device = self._parameters[0].device
        if self._codec is not None:
            codecs.refuse_device(device.type, "OuterOptimizer with a codec")
        shapes = [f"a parameter of shape {tuple(each.shape)}" for each in self._parameters]
        settings = f"{every=}, {lr=}, {momentum=}, codec={self._codec}"
        reduced.compare_arguments(self._group, [settings, *shapes], "OuterOptimizer")
        world = self._group.size()
        self._count = sum(each.numel() for each in self._parameters)
        # One number per parameter element, and zeros up to a multiple of the number of ranks.
        length = -(-self._count // world) * world
        self._start = torch.zeros(length, dtype=torch.float32, device=device)
        self._copy_to(self._start)
        dist.broadcast(self._start, group_src=0, group=self._group)
        self._copy_from(self._start)
        self._velocity = torch.zeros_like(self._start)
        feedback = self._codec is not None and self._codec.feedback
        self._residual = torch.zeros_like(self._start) if feedback else None
        self._steps = 0  # since the last outer step
        self._sums = 0  # how many were encoded; the number of a sum decides its random bits

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Is refused: give the wrapped optimizer all its parameters first."""
        if hasattr(self, "_start"):
            raise ValueError("add parameters to the optimizer before OuterOptimizer wraps it")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Makes a step of the wrapped optimizer, and then an outer step if it is due.

        All ranks must make the same number of steps. A GradScaler, which skips steps on one rank
        alone, does not fit.

        Returns:
            What the wrapped optimizer returns.
        """
        result = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        self._steps += 1
        if self._steps >= self.every:  # a loaded state may have more
            self.outer_step()
        return result

    @torch.no_grad()
    def outer_step(self) -> None:
        """Makes an outer step now, unless one has just been made. A collective.

        Call it after the last step of the training: the ranks' parameters differ until then.
        """
        if self._steps == 0:
            return
        difference = torch.zeros_like(self._start)
        self._copy_to(difference)
        torch.sub(self._start, difference, out=difference)
        difference.div_(self._group.size())
        if self._codec is None or self._group.size() == 1:
            dist.all_reduce(difference, group=self._group)
        else:
            total = EncodedSum(difference, self._codec, self._group, self._residual, self._sums)
            self._sums += 1
            total.work.wait()
            total.finish()
            # 1bit decodes the padding to numbers, and a state has none of it.
            difference[self._count :] = 0
        self._velocity.mul_(self.momentum).add_(difference)
        difference.add_(self._velocity, alpha=self.momentum)
        self._start.sub_(difference, alpha=self.outer_lr)
        self._copy_from(self._start)
        self._steps = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of this rank. Every rank must save it, and the model's parameters."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "start": self._start[: self._count].clone(),
            "velocity": self._velocity[: self._count].clone(),
            "residual": None if self._residual is None else self._residual.clone(),
            "steps": self._steps,
            "sums": self._sums,
            "shapes": [tuple(parameter.shape) for parameter in self._parameters],
        }
        return state | saved_states.origin(self._group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the model's parameters are restored apart.

        With another number of ranks, or a state without residuals, residuals start from zero.

        Raises:
            TypeError: The state or an entry is of another type.
            ValueError: The state lacks an entry, is of another model or optimizer, has a residual
                that is not finite, or another rank of a group of the same size saved it; nothing
                has changed then.
        """
        keys = ("optimizer", "start", "velocity", "residual", "steps")
        saved_states.check(state_dict, keys, "OuterOptimizer.state_dict()", self._group)
        steps = saved_states.counter(state_dict, "steps")
        sums = saved_states.counter(state_dict, "sums")
        self._check_shapes(state_dict.get("shapes"))  # states of earlier versions have none
        for key in ("start", "velocity"):
            self._check_flat(key, state_dict[key], self._count)
        residual = state_dict["residual"]
        if self._residual is None or not saved_states.same_world(state_dict, self._group):
            residual = None
        if residual is not None and "world_size" in state_dict:
            self._check_flat("residual", residual, len(self._start))
        elif residual is not None:
            saved_states.check_tensor("residual of the state", residual)
            if residual.shape != self._start.shape:  # of an earlier version and another world
                residual = None
        if residual is not None:
            self._check_residual(residual)
        self._load_wrapped(state_dict["optimizer"])
        self._start[: self._count] = state_dict["start"]
        self._velocity[: self._count] = state_dict["velocity"]
        self._steps, self._sums = steps, sums
        if self._residual is not None:
            self._residual.zero_() if residual is None else self._residual.copy_(residual)

    def _load_wrapped(self, state: Any) -> None:
        """Loads the state of the wrapped optimizer, or raises and changes nothing."""
        optimizer = self.optimizer
        name = type(optimizer).__name__
        if not isinstance(state, Mapping):
            wanted = f"what the wrapped {name}.state_dict() returned"
            raise arguments.wrong_type("entry 'optimizer' of the state", state, wanted)
        before = optimizer.state, optimizer.param_groups
        try:
            optimizer.load_state_dict(dict(state))
        except Exception as error:
            # Adam, for one, looks at the entries of a parameter after it has replaced its state.
            optimizer.state, optimizer.param_groups = before
            if not isinstance(error, (AttributeError, KeyError, TypeError)):
                raise  # an error in words
            raise ValueError(
                f"the wrapped {name} cannot load entry 'optimizer' of the state "
                f"({type(error).__name__}: {error}); it must be what {name}.state_dict() returned"
            ) from error
        self.state, self.param_groups = optimizer.state, optimizer.param_groups

    def _check_residual(self, residual: torch.Tensor) -> None:
        sizes = [each.numel() for each in self._parameters]
        for index, part in enumerate(residual[: self._count].split(sizes)):
            name = f"residual of the state, of parameter {self._name_of(index)},"
            saved_states.check_finite(name, part, "state | {'residual': None}")
        saved_states.check_finite("residual of the state", residual, "state | {'residual': None}")

    def _name_of(self, index: int) -> str:
        """Returns a parameter's name, quoted, if the wrapped optimizer has names; or its index."""
        names = [name for some in self.param_groups for name in some.get("param_names", [])]
        return repr(names[index]) if names else str(index)

    def _check_flat(self, key: str, tensor: Any, count: int) -> None:
        saved_states.check_tensor(f"{key} of the state", tensor)
        if tensor.shape != (count,):
            raise ValueError(
                f"{key} of the state is of shape {tuple(tensor.shape)}; here it is of shape "
                f"({count},), as the parameters have {self._count} elements"
            )

    def _check_shapes(self, shapes: Any) -> None:
        if shapes is None:
            return
        is_list = isinstance(shapes, Sequence) and not isinstance(shapes, str)
        if not (is_list and all(isinstance(each, Sequence) for each in shapes)):
            raise arguments.wrong_type(
                "shapes of the state", shapes, "a list of tuples of integers"
            )
        if len(shapes) != len(self._parameters):
            raise ValueError(
                f"the state has {len(shapes)} parameters, and here there are "
                f"{len(self._parameters)}"
            )
        for index, (parameter, saved) in enumerate(zip(self._parameters, shapes, strict=True)):
            if tuple(saved) != tuple(parameter.shape):
                raise ValueError(
                    f"parameter {self._name_of(index)} is of shape {tuple(saved)} in the "
                    f"state; here it is of shape {tuple(parameter.shape)}"
                )

    def _copy_to(self, flat: torch.Tensor) -> None:
        sizes = [each.numel() for each in self._parameters]
        for part, parameter in zip(flat[: self._count].split(sizes), self._parameters, strict=True):
            part.copy_(parameter.detach().reshape(-1))

    def _copy_from(self, flat: torch.Tensor) -> None:
        sizes = [each.numel() for each in self._parameters]
        for part, parameter in zip(flat[: self._count].split(sizes), self._parameters, strict=True):
            parameter.detach().copy_(part.view_as(parameter))
