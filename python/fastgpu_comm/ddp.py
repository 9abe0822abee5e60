"""DistributedDataParallel: torch's own, with codecs, error feedback and weights.

It is a subclass of torch's class and keeps torch's Reducer, which watches the backward pass and
fills the buckets. It adds a communication hook in C++ (csrc/torch/reducer), and registers it only
if `codec` or `weighted` is given.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn import parallel

from fastgpu_comm import codec_choice, codecs, divergence, reduced, saved_states
from fastgpu_comm.loss_scales import LossScales
from fastgpu_comm.optimizer_check import check_optimizers_of
from fastgpu_comm.weights import Weights


class DistributedDataParallel(parallel.DistributedDataParallel):
    """torch's DistributedDataParallel with compressed gradients and weighted means.

    Without `codec` and `weighted` it behaves as torch's class, except that its errors always name
    parameters, as torch's do with TORCH_DISTRIBUTED_DEBUG=INFO.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *args: Any,
        codec: codecs.Codec | str | codecs.Policy | None = None,
        weighted: str | None = None,
        bucket_plan: list[list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Wraps a module, as torch's class does. A collective.

        Args:
            module: The module.
            args: The other arguments are those of torch's class.
            kwargs: See `args`.
            codec: How gradients travel: a name ("fp16", "bf16", "int8", "int4", "topk", "1bit"), an
                object of `fastgpu_comm.codecs`, or a function that returns either, or None, for a
                parameter's name, shape and dtype. A name or object is used for parameters with two
                or more dimensions and 4096 or more elements. Only float32 is ever compressed.
                "1bit" is for SGD, with or without momentum: the first step of an Adam-like
                optimizer raises ValueError, see `codecs.check_optimizer`. "auto" tries none, int8,
                int4 and smaller buckets in the first steps and keeps the fastest: see
                `codec_choice`. Must be the same on all ranks.
            weighted: "mean" or "sum": see `set_weight`.
            bucket_plan: The parameters of each bucket, as the method `bucket_plan` returns them.
                torch does not rebuild the buckets then. Must be the same on all ranks.

        Raises:
            TypeError: `codec` is none of the above.
            ValueError: The codec or weighting is unknown, or this model, process group or another
                argument does not allow one.
        """
        if weighted not in (None, "mean", "sum"):
            raise ValueError(f"weighted is {weighted!r}; allowed: 'mean', 'sum', None")
        # Before torch's constructor, which calls _ddp_init_helper.
        self._automatic = codec == codecs.AUTO
        self._codec = codec_choice.find(codec)
        self._weighted = weighted
        self._gradients: Any = None  # native.GradientReducer, if there is a codec or a weighting
        self._chooser: codec_choice.CodecChooser | None = None  # with codec="auto"
        self._registered = False  # whether torch's reducer calls _gradients
        self._names: list[str] = []  # by the Reducer's index of the parameter
        self._reduced: list[torch.nn.Parameter] = []
        self._codecs: list[codecs.Codec | None] = []
        self._weights = Weights()
        self._plan = bucket_plan
        self._step = 0  # forward passes whose gradients are reduced
        if self._hooked and kwargs.get("mixed_precision") is not None:
            raise ValueError(
                "mixed_precision registers a communication hook, and so do codec and weighted; use "
                "torch.autocast instead"
            )
        flags = ("static_graph", "find_unused_parameters")
        self._settings: dict[str, Any] = {name: kwargs.get(name, False) for name in flags}
        self._settings |= {"codec": "auto" if self._automatic else "not auto", "weighted": weighted}
        # `init_sync` is the fifth of torch's arguments after the module.
        self._compares = bool(kwargs.get("init_sync", args[4] if len(args) > 4 else True))
        super().__init__(module, *args, **kwargs)
        if self._hooked and self._gradients is None:
            raise ValueError("delay_all_reduce_named_params leaves nothing to codec and weighted")
        self._loss_scales = LossScales(self._gradients)

    @property
    def measures(self) -> bool:
        """Whether `stats` returns anything."""
        return self._registered

    @property
    def _hooked(self) -> bool:
        return self._codec is not None or self._weighted is not None

    def _build_params_for_reducer(self) -> tuple[list[torch.nn.Parameter], list[bool]]:
        """Lists the parameters. torch's constructor then compares their shapes between ranks."""
        parameters, sparse = super()._build_params_for_reducer()
        self._reduced = parameters
        self._names = reduced.names_of(self, parameters)
        self._codecs = [
            None if is_sparse else codecs.choose(self._codec, name, parameter)
            for name, parameter, is_sparse in zip(self._names, parameters, sparse, strict=True)
        ]
        backend = dist.get_backend(self.process_group)  # such as cpu:gloo,cuda:nccl
        if self._compares and ("fastgpu" in backend or "gloo" in backend):
            self._compares = False
            described = reduced.describe(self._names, parameters, self._codecs)
            reduced.compare(self, described, self._settings | {"bucket_plan": self._plan})
        return parameters, sparse

    def _ddp_init_helper(self, *args: Any) -> None:
        """Makes the Reducer. torch's constructor calls it, and unpickling."""
        with reduced.named_in_errors():
            super()._ddp_init_helper(*args)
        self._set_plan()
        if self._hooked:
            self._attach()

    def _set_plan(self) -> None:
        if self._plan is not None:
            reduced.set_plan(self.reducer, self._names, self._plan)

    def _attach(self) -> None:
        from fastgpu_comm import native

        if self._use_python_reducer:
            raise ValueError(
                "codec and weighted need torch's C++ Reducer: set torch._dynamo.config."
                "optimize_ddp to True instead of 'python_reducer'"
            )
        codecs.check_chosen(self._codec, self._codecs, self.device_type, self._automatic)
        check_optimizers_of(self, {f"module.{n}": n for n in self._names}, self._codecs)
        encodings = [codecs.encoding_of(codec) for codec in self._codecs]
        backend = reduced.backend_for(self.process_group, self.device_type)
        self._gradients = native.GradientReducer(backend, encodings, self._weighted)
        if self._automatic:
            self._chooser = codec_choice.CodecChooser(
                self._gradients, self.reducer, self._names, self._reduced, self._codecs
            )
        self._restart()
        self._gradients.split_buckets(self.reducer)

    def _restart(self, delivers: bool = False) -> None:
        """Chooses codecs anew, and registers the hook unless torch can do without: see `_load`."""
        backend = reduced.backend_for(self.process_group, self.device_type)
        self._gradients.set_backend(backend)
        self._weights.restart()
        if self._chooser is not None:
            self._chooser.restart(backend, self._plan)
            if not (self._chooser.tries or self._weighted or delivers):
                return
        if not self._registered:
            self._registered = True
            self._gradients.attach(self.reducer)
            assert self.logger is not None
            self.logger._set_comm_hook_name("fastgpu_comm")

    @torch._disable_dynamo(recursive=False)
    def _pre_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        reduces = torch.is_grad_enabled() and self.require_backward_grad_sync
        weighs = self._weighted and self.training and torch.is_grad_enabled()
        if weighs and not self._weights.is_set:
            raise ValueError(f"weighted={self._weighted!r}: call set_weight(n) before each forward")
        self._loss_scales.update()
        with reduced.names_of_unused(self.logger):
            prepared = super()._pre_forward(*inputs, **kwargs)  # it may rebuild the buckets
        self._step += reduces
        if reduces and self.training:
            self._loss_scales.start(self.process_group)
        if self._gradients is None:
            return prepared
        self._gradients.set_step(self._step)
        if torch.is_grad_enabled():
            self._prepare_buckets()
        if torch.is_grad_enabled() and self._weighted:
            self._weights.announce(self._gradients, reduces)
        return prepared

    def _post_forward(self, output: Any) -> Any:
        output = super()._post_forward(output)
        if self._loss_scales.are_pending:
            self._loss_scales.check_before_backward(output)
        if self._weighted:
            self._weights.check_before_backward(output, self._gradients)
        return output

    def _prepare_buckets(self, joined: bool = False) -> None:
        if self._chooser is not None:
            self._chooser.before_pass(joined)
        self._gradients.split_buckets(self.reducer)

    def _match_all_reduce_for_bwd_pass(self) -> None:
        """Takes part in a backward pass of the other ranks, after this rank has joined."""
        self._loss_scales.join(self.process_group)
        self._step += 1
        if self._gradients is not None:
            self._gradients.set_step(self._step)
            self._prepare_buckets(joined=True)
            if self._weighted:
                self._gradients.announce_weight(0.0)
        super()._match_all_reduce_for_bwd_pass()

    def _update_process_group(self, new_process_group: Any) -> None:
        super()._update_process_group(new_process_group)
        self._set_plan()
        if self._gradients is not None and self.process_group is new_process_group:
            self._restart()

    def register_comm_hook(self, state: object, hook: Any) -> None:
        """Registers a communication hook of the user's, as torch's class does.

        Raises:
            RuntimeError: There is a hook already, which is also so with `codec` or `weighted`.
        """
        self._refuse_second_hook()
        super().register_comm_hook(state, hook)

    def _register_builtin_comm_hook(self, comm_hook_type: Any) -> None:
        self._refuse_second_hook()
        super()._register_builtin_comm_hook(comm_hook_type)

    def _refuse_second_hook(self) -> None:
        if self._gradients is not None:
            raise RuntimeError(
                "register_comm_hook or register_builtin_comm_hook can only be called once, and "
                "codec and weighted have registered a hook. Leave them out to use another hook, or "
                "an optimizer that runs in the backward pass."
            )

    def set_weight(self, weight: float) -> None:
        """Sets the weight of the next forward pass: its number of samples or tokens.

        With w the sum of a rank's weights since gradients were last reduced:

        - `weighted="mean"`: the result is sum(w * gradient) / sum(w) over the ranks. It is the
          gradient of the mean over all samples if each rank's gradient is that of the mean over
          its own samples, as with the usual losses.
        - `weighted="sum"`: the result is sum(gradient) / sum(w). It is the gradient of the mean
          over all samples if each loss is a sum over samples. Micro-batches under `no_sync` may
          then be of any size. With means they must be of one size on a rank, because autograd adds
          their gradients unweighted, and the loss must be divided by their number.

        The weights are added up over the ranks while the forward pass runs, and count in the next
        backward pass. A rank with weight 0 contributes nothing, not even a NaN. If all weights are
        0, so are the gradients.

        Raises:
            TypeError: The weight is no number.
            ValueError: The weight is negative or not finite, or there is no `weighted`.
        """
        if self._weighted is None:
            raise ValueError("set_weight needs DistributedDataParallel(..., weighted='mean'|'sum')")
        self._weights.set(weight)

    def follow_scaler(self, scaler: torch.amp.GradScaler) -> None:
        """Compares the ranks' loss scales in every step, and keeps the residuals right.

        A collective: call it on all ranks before training, also with a scaler that is disabled.
        From then on the scales travel beside the forward pass. If they differ, `backward` raises
        RuntimeError on all ranks before it reduces a gradient, and names all ranks and scales.

        When the scaler lowers its scale, it has skipped the last step, and the residuals return to
        their values before it. Any change of the scale multiplies them. Costs a copy in each step.
        Steps between `load_reducer_state_dict` and this call are taken to have used this scaler.

        Raises:
            RuntimeError: The scales differ, or a scaler is enabled on some ranks only.
            TypeError: `scaler` is no GradScaler.
        """
        self._loss_scales.follow(scaler, self.process_group, self.device)

    def compare_reduced(self) -> None:
        """Checks that all ranks have the same reduced gradients, bit for bit. A collective.

        Call it on all ranks, between `backward` and the optimizer's step.

        Raises:
            RuntimeError: Gradients differ. On every rank the error names the step, counted from 1,
                and for each bucket the parameters and the ranks that differ from the majority.
        """
        gradients = {n: p.grad for n, p in zip(self._names, self._reduced, strict=True)}
        divergence.compare_gradients(self.process_group, gradients, self.bucket_plan(), self._step)

    def compare_parameters(self) -> None:
        """Checks that all ranks have the same parameters, bit for bit. A collective.

        Like `compare_reduced`, with its error, and callable at any time. It includes the parameters
        that have no gradient, but no buffers: torch lets these differ between forward passes.
        """
        divergence.compare_parameters(self.process_group, self.module, self._step)

    def bucket_plan(self) -> list[list[str]]:
        """Returns the names of the parameters in each bucket, in the order of the reductions."""
        return reduced.plan_of(self.reducer, self._names)

    def stats(self, all_ranks: bool = False) -> list[dict[str, Any]]:
        """Returns the measurements of the last backward pass on this rank, by bucket.

        Args:
            all_ranks: Also gather the times of all ranks. All ranks must call it then.

        Returns:
            For each bucket: `parameters` (names), `codec`, `bytes` of the gradients,
            `encoded_bytes` of one encoded copy of them, `residual_bytes` of this rank's memory,
            `launched_s` and `done_s`: when the reduction was started and complete, in seconds since
            the pass reduced its first bucket; `codec_s`: the seconds that this rank's CPU spent on
            encoding and decoding, summed over its threads. With `all_ranks` also three lists by
            rank of the group, `launches_s`, `codecs_s` and `waits_s`, the times from start to
            completion; and `last_rank`, which waited least, because it started the reduction last.
            Empty without `codec` or `weighted`, and while `codec="auto"` leaves the reductions to
            torch.
        """
        if self._gradients is None:
            return []
        buckets: list[dict[str, Any]] = self._gradients.stats()
        for bucket in buckets:
            bucket["parameters"] = [self._names[index] for index in bucket["parameters"]]
        if all_ranks:
            reduced.add_times_of_ranks(self.process_group, buckets)
        return buckets

    def codec_choice(self) -> dict[str, Any]:
        """Returns what `codec="auto"` has chosen, and why: see `CodecChooser.report`.

        Raises:
            ValueError: The codec is not "auto".
        """
        if self._chooser is None:
            raise ValueError("codec_choice needs DistributedDataParallel(..., codec='auto')")
        return self._chooser.report()

    def reducer_state_dict(self) -> dict[str, Any]:
        """Returns the residuals of this rank, for a checkpoint. Each rank saves its own.

        Returns:
            `residuals`: by name of the parameter, a copy of its residual in the parameter's shape;
            `scale`: the loss scale that the residuals are in; `bucket_plan`: the buckets, or None
            if torch has not rebuilt them yet; `step`: how many steps there were; `rank` and
            `world_size`: of the process group.
        """
        self._loss_scales.update()
        residuals = reduced.residuals_of(self._gradients, self._names, self._reduced)
        plan = self.bucket_plan() if self._plan is not None or self._has_rebuilt_buckets else None
        if self._chooser is not None:
            plan = self._chooser.plan or plan  # before a codec splits buckets
        kept = {"residuals": residuals, "scale": self._loss_scales.scale, "bucket_plan": plan}
        return kept | {"step": self._step} | saved_states.origin(self.process_group)

    def load_reducer_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `reducer_state_dict` returned. Parameters that it lacks start from zero.

        All ranks must call it, between an optimizer step and the next forward pass. The number of
        ranks may be another than that of the saved run.

        Raises:
            TypeError: The state or an entry is of another type.
            ValueError: The state lacks an entry, has a residual of an unknown parameter, another
                shape or no finite numbers, or another rank saved it and there were as many; nothing
                has changed then.
        """
        known = self._reduced if self._gradients is not None else []
        reduced.check_state(state, self.process_group, self._names, known)
        self._load(state, delivers=True)  # the other ranks may have residuals

    def _load(self, state: dict[str, Any], delivers: bool) -> None:
        """Loads a state that fits. `delivers`: any rank may have residuals; equal on all ranks."""
        self._loss_scales.update()
        self._step = state.get("step", self._step)  # states of earlier versions have none
        if self._gradients is None:
            return
        self._gradients.abandon_step()  # so that a skipped step does not bring back old residuals
        if state["bucket_plan"] is not None or self._chooser is not None:
            self._plan = state["bucket_plan"]  # None: the chooser tries sizes again
        self._set_plan()
        self._restart(delivers)
        residuals = self._loss_scales.load(state["residuals"], state["scale"])
        reduced.set_residuals(self._gradients, self._names, self._reduced, residuals)

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the module and the residuals, if the process group is the default one."""
        saved = self.reducer_state_dict()
        attributes: dict[str, Any] = super().__getstate__()
        attributes |= dict.fromkeys(("_gradients", "_loss_scales", "_chooser"))
        return attributes | {"_saved_residuals": saved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes a new Reducer, with the pickled residuals if they are this rank's."""
        saved, delivers = state.pop("_saved_residuals"), state["_registered"]
        super().__setstate__(state | {"_registered": False})
        self._loss_scales = LossScales(self._gradients, saved["scale"])
        self._load(saved_states.own(saved, self.process_group), delivers)
