"""The training loop.

Training is data parallel: every rank runs this loop on its part of each batch, and
DistributedDataParallel averages the gradients over the ranks. Every sample of a batch has the same
weight, or that of `Datasets.weigh`, so the steps are the same, to rounding, for any number of ranks
and micro-batches.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import torch

# Its functions take the default group of the moment of import as their default argument. DDP
# imports it, by way of torch._dynamo, and the group would outlive destroy_process_group(). A thread
# of gloo that drops a tensor while the interpreter shuts down aborts the process.
import torch.distributed.nn.functional
from torch import nn
from torch.nn.parallel import DistributedDataParallel as TorchDDP
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastgpu_comm import codecs, saved_states
from fastgpu_comm.ddp import DistributedDataParallel
from fastgpu_comm.trainer import parallel, random_state
from fastgpu_comm.trainer.checkpoint import CheckpointError, CheckpointFolder, decode
from fastgpu_comm.trainer.communication import GradientTraffic
from fastgpu_comm.trainer.data import BatchOrder, Datasets, micro_batches
from fastgpu_comm.trainer.early_stop import EarlyStop
from fastgpu_comm.trainer.objective import Objective, Tally
from fastgpu_comm.trainer.precision import Precision
from fastgpu_comm.trainer.ranks import Ranks
from fastgpu_comm.trainer.recorder import Recorder, TrainResult
from fastgpu_comm.trainer.settings import TrainerSettings

_LOG = logging.getLogger(__name__)
_MAY_DIFFER = ("folder", "checkpoint_folder", "progress", "tensorboard")


class Trainer:
    """Trains a model in place, in one process or data parallel.

    All ranks create a Trainer and call the same methods in the same order, from one thread. `fit`
    may be called once. The model may be

    - a plain module: it is wrapped in fastgpu_comm.DistributedDataParallel over the default process
      group, or trained in this process only if torch.distributed is not initialised;
    - a DistributedDataParallel of torch, or an instance of a subclass, over any process group.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        datasets: Datasets,
        objective: Objective,
        settings: TrainerSettings,
        scheduler: LRScheduler | None = None,
    ) -> None:
        """Prepares a run. A collective if the ranks train together.

        Args:
            model: The model, on the device to train on.
            optimizer: An optimizer of the model's parameters. LBFGS is refused, because its line
                search needs the loss of all ranks within a step.
            datasets: The data for training and evaluation, the same on every rank.
            objective: Computes the loss of a batch, such as `classification`.
            settings: The settings, the same on every rank. Only the folders, `tensorboard` and
                `progress` may differ; those of rank 0 are used.
            scheduler: Steps after each optimizer step; a ReduceLROnPlateau after each evaluation.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The model has no parameters, the optimizer, its codec or the precision is
                not supported, or the settings or data differ between ranks.
        """
        for name, value, kind in (
            ("model", model, nn.Module),
            ("optimizer", optimizer, torch.optim.Optimizer),
            ("datasets", datasets, Datasets),
            ("settings", settings, TrainerSettings),
        ):
            if not isinstance(value, kind):
                found = type(value).__name__
                raise TypeError(f"{name} must be of type {kind.__name__}, not {found}.")
        if next(model.parameters(), None) is None:
            raise ValueError("The model has no parameters to train.")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "The optimizer is LBFGS, which evaluates the loss inside its step; use one that "
                "steps on gradients alone, such as AdamW or SGD."
            )
        codecs.check_optimizer(settings.codec, optimizer)
        self.settings = settings
        self.model = parallel.wrap(model, settings.codec, datasets.weigh is not None)
        self.module: nn.Module = model
        self.step = 0
        group = None
        self._traffic: GradientTraffic | None = None
        if isinstance(self.model, TorchDDP):
            self.module = self.model.module
            group = self.model.process_group
            self._traffic = GradientTraffic(self.model)
        self.ranks = Ranks(group)
        self._device = next(self.module.parameters()).device
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._datasets = datasets
        self._objective = objective
        self._precision = Precision(settings.precision, self._device)
        if isinstance(self.model, DistributedDataParallel) and self._precision.scaler is not None:
            self.model.follow_scaler(self._precision.scaler)
        self._order = BatchOrder(len(datasets.train), settings.batch_size, settings.seed)
        self._early_stop = EarlyStop(settings.patience, settings.min_improvement)
        self._recorder = Recorder(settings, self.ranks, self._traffic)
        self._tally = Tally(self._device)
        self._train_s = 0.0
        self._gradient_norm: float | None = None
        self._check_agreement()

    def fit(self) -> TrainResult:
        """Trains until all steps are done, or until the evaluations no longer improve.

        Returns:
            The result of this call.

        Raises:
            CheckpointError: The checkpoints to resume from are all damaged, or do not match this
                run; or a new run would write into another run's checkpoints.
            fastgpu_comm.CommError: Communication over `fastgpu` failed. The model's gradients and
                buffers are unspecified; the checkpoints are intact.
        """
        random_state.seed_all(self.settings.seed + self.ranks.rank)
        self._start_or_resume()
        with self._recorder.outputs(self.step):
            while self.step < self.settings.steps and not self._early_stop.stopped:
                self._train_step()
                self._after_step()
        result = self._recorder.result
        result.step = self.step
        result.stopped_early = self._early_stop.stopped
        return result

    def evaluate(self) -> dict[str, float]:
        """Evaluates the model on the evaluation data. A collective if the ranks train together.

        The model runs in evaluation mode, on all ranks with the buffers of rank 0.

        Returns:
            "loss" (the mean, weighted as in training), "samples", "predictions" and, if the
            objective counts correct predictions, "accuracy".

        Raises:
            ValueError: There is no evaluation data.
        """
        dataset = self._datasets.evaluation
        if dataset is None:
            raise ValueError("There is no evaluation dataset: pass one to Datasets.")
        self.ranks.broadcast_tensors(self.module.buffers())
        mine = range(len(dataset))[self.ranks.rank :: self.ranks.world]
        size = self._micro_batch_size()
        tally = Tally(self._device)
        datasets = self._datasets
        was_training = self.module.training
        self.module.eval()
        with torch.no_grad(), self._precision.forward():
            for start in range(0, len(mine), size):
                indices = mine[start : start + size]
                batch = datasets.fetch(dataset, indices, self._device)
                outcome = self._objective(self.module, batch)
                tally.add(outcome, len(indices), datasets.weight(batch, len(indices)))
        self.module.train(was_training)
        self.ranks.sum_in_place(tally.values)
        return tally.summary()

    def _train_step(self) -> None:
        start = time.perf_counter()
        batch = self._order.next()
        mine = micro_batches(batch, self.ranks.rank, self.ranks.world, self.settings.accumulation)
        total = 0.0
        for indices in mine[:-1]:
            with parallel.no_sync(self.model):
                total += self._accumulate(indices, len(batch))
        if mine:
            total += self._accumulate(mine[-1], len(batch))
        else:  # no sample of a small last batch, but the other ranks wait for gradients
            self._accumulate(batch, len(batch), samples=0)
        if self._traffic is not None:
            self._traffic.after_backward()
        elif self._datasets.weigh is not None:
            self._divide_gradients(total)
        stepped, self._gradient_norm = self._precision.step(
            self._optimizer, self.settings.clip_norm
        )
        self._optimizer.zero_grad()
        per_evaluation = isinstance(self._scheduler, ReduceLROnPlateau)
        if stepped and self._scheduler is not None and not per_evaluation:
            self._scheduler.step()
        self.step += 1
        self._train_s += time.perf_counter() - start

    def _accumulate(self, indices: list[int], batch_size: int, samples: int | None = None) -> float:
        """Adds the gradients of a micro-batch, and returns the factor that they have.

        Args:
            indices: The samples of the micro-batch.
            batch_size: The samples of the whole batch, over all ranks.
            samples: How many of them count; by default all.
        """
        samples = len(indices) if samples is None else samples
        batch = self._datasets.fetch(self._datasets.train, indices, self._device)
        weight = self._datasets.weight(batch, samples) if samples else 0.0
        # The loss is the mean over this micro-batch, and DDP takes the mean over the ranks. With
        # this factor both together give the mean over the samples of the whole batch. Other weights
        # do not add up to batch_size, so that our class must divide by the sum of the factors.
        factor = weight * self.ranks.world / batch_size
        if self._datasets.weigh is not None and isinstance(self.model, DistributedDataParallel):
            self.model.set_weight(factor)
        with self._precision.forward():
            outcome = self._objective(self.model, batch)
        self._precision.backward(outcome.loss * factor)
        if samples:
            self._tally.add(outcome, samples, weight)
        return factor

    def _divide_gradients(self, total: float) -> None:
        for parameter in self.module.parameters():
            if parameter.grad is not None and total > 0:
                parameter.grad.div_(total)

    def _after_step(self) -> None:
        settings = self.settings
        last = self.step == settings.steps
        evaluate = _is_due(self.step, settings.evaluate_every, last)
        if evaluate and self._datasets.evaluation is not None:
            self._judge(self.evaluate())
        last = last or self._early_stop.stopped
        save = _is_due(self.step, settings.checkpoint_every, last)
        # Also before a checkpoint, so that no record covers steps before and after a resume.
        if save or _is_due(self.step, settings.log_every, last):
            self._record()
        if save:
            self._save()
        self._recorder.step(self.step)

    def _judge(self, summary: dict[str, float]) -> None:
        loss = summary["loss"]
        self._early_stop.judge(loss)
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)
        self._recorder.evaluation(self.step, summary)

    def _record(self) -> None:
        facts = {
            "epoch": self._order.epochs,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
        }
        if self._gradient_norm is not None:
            facts["gradient_norm"] = self._gradient_norm
        self._recorder.training(self.step, self._tally, self._train_s, facts)
        self._tally, self._train_s = Tally(self._device), 0.0

    def _micro_batch_size(self) -> int:
        share = self.settings.batch_size / (self.ranks.world * self.settings.accumulation)
        return max(1, round(share))

    def _check_agreement(self) -> None:
        evaluation = self._datasets.evaluation
        facts: dict[str, object] = {
            "the number of training samples": len(self._datasets.train),
            "the number of evaluation samples": None if evaluation is None else len(evaluation),
            "the precision's device type": self._device.type,
        }
        for name, value in dataclasses.asdict(self.settings).items():
            if name not in _MAY_DIFFER:
                facts[f"TrainerSettings.{name}"] = value
        self.ranks.check_agreement(facts)

    def _checkpoints(self) -> CheckpointFolder | None:
        """Returns the folder of checkpoints on rank 0; None on other ranks, or without a folder."""
        folder = self.settings.checkpoint_folder
        if self.ranks.rank != 0 or folder is None:
            return None
        return CheckpointFolder(folder, self.settings.keep_checkpoints)

    def _save(self) -> None:
        generators = self.ranks.gather(random_state.save(self._device))
        residuals = self.ranks.gather(parallel.residuals(self.model))
        checkpoints = self._checkpoints()
        if checkpoints is None:
            return
        scaler = self._precision.scaler
        state = {
            "step": self.step,
            "model": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "order": self._order.state_dict(),
            "early_stop": (self._early_stop.best, self._early_stop.stale),
            "generators": generators,
            "residuals": residuals,
        }
        checkpoints.write(self.step, state)

    def _start_or_resume(self) -> None:
        payload, problem = self.ranks.broadcast(self._find_checkpoint())
        if problem is not None:
            raise CheckpointError(problem)
        if payload is None:
            return
        self._warm_up_ddp()
        state = decode(payload)
        try:
            self._load(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint of step {state.get('step')} does not match this run: {error}"
            ) from error

    def _find_checkpoint(self) -> tuple[bytes | None, str | None]:
        """Returns, on rank 0, the checkpoint to resume from, or the reason why there is none."""
        checkpoints = self._checkpoints()
        if checkpoints is None:
            return None, None
        if not self.settings.resume:
            steps = checkpoints.steps()
            if steps and self.settings.checkpoint_every is not None:
                return None, (
                    f"{checkpoints.path(steps[-1])} is from an earlier run. Resume that run "
                    "(resume=True), or use another folder."
                )
            return None, None
        try:
            payload, damages = checkpoints.newest_good()
        except (CheckpointError, OSError) as error:
            return None, str(error)
        for damage in damages:
            _LOG.warning("%s The checkpoint before it is used.", damage)
        return payload, None

    def _warm_up_ddp(self) -> None:
        """Runs a backward pass through DDP before a saved state is restored.

        After its first pass DDP groups the gradients into other buckets. With more than two ranks,
        the position in a bucket can decide the order of additions. The saved run was past its first
        pass, so this run must be too, to compute the same bits.
        """
        if self.ranks.world == 1:
            return
        indices = range(min(self._micro_batch_size(), len(self._datasets.train)))
        self._accumulate(list(indices), len(indices), samples=0)
        self._optimizer.zero_grad()
        if self._traffic is not None:
            self._traffic.after_backward()
            self._traffic.take()

    def _load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        scaler = self._precision.scaler
        for name, mine in (("scheduler", self._scheduler), ("scaler", scaler)):
            if (mine is None) != (state[name] is None):
                there, here = ("with", "without") if mine is None else ("without", "with")
                raise ValueError(f"it was written {there} a {name}, and this run is {here} one.")
            if mine is not None:
                mine.load_state_dict(state[name])
        self._order.load_state_dict(state["order"])
        self._early_stop.best, self._early_stop.stale = state["early_stop"]
        self.step = state["step"]
        generators = state["generators"]
        if isinstance(self.model, DistributedDataParallel):
            group = self.model.process_group
            residuals = saved_states.for_rank(state.get("residuals", []), group)
            if residuals is not None:
                self.model.load_reducer_state_dict(residuals)
        if len(generators) == self.ranks.world:
            random_state.restore(generators[self.ranks.rank], self._device)
        elif self.ranks.rank == 0:
            _LOG.warning(
                "The checkpoint is from %d ranks, this run has %d: the samples continue where they "
                "stopped, but random numbers, as for dropout, start from the seed.",
                len(generators),
                self.ranks.world,
            )


def _is_due(step: int, every: int | None, last: bool) -> bool:
    return every is not None and (last or step % every == 0)
