"""The training loop: batches in, steps taken, metrics and checkpoints out.

Data parallel: every rank runs this same loop on its part of each batch, and the gradients are
averaged over the ranks by DistributedDataParallel. A sample weighs the same on whatever rank and in
whatever micro-batch it lands, so any number of ranks and micro-batches gives the same step, to
rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastgpu_comm.trainer import random_state
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
    """Trains a model, on this process alone or with others.

    Built and used by one thread of every rank alike; `fit` is called once. The model is trained in
    place. `model` may be

    - a bare module: wrapped in torch's DistributedDataParallel over the default process group if
      torch.distributed is initialised, else trained on its own;
    - an instance of DistributedDataParallel or of a subclass, over any process group: taken as is.
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
        """Prepares a run; a collective when the model is trained with others.

        Args:
            model: on the device to train on.
            optimizer: over the model's parameters; any of torch's but LBFGS, whose line search
                would need the loss of all ranks in the middle of a step.
            datasets: what to train and evaluate on; the same on every rank.
            objective: says what the model is trained for (`classification` is one).
            settings: the same on every rank (`folder` may differ, only rank 0's is used).
            scheduler: steps after each optimizer step; ReduceLROnPlateau after each evaluation.

        Raises:
            ValueError: for an optimizer or a precision that cannot be had, or settings or data
                that differ between ranks.
        """
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "The optimizer is LBFGS, which evaluates the loss inside its step; use one that "
                "steps on gradients alone, such as AdamW or SGD."
            )
        self.settings = settings
        self.model = _wrap(model)
        self.module: nn.Module = model
        self.step = 0
        group = None
        self._traffic: GradientTraffic | None = None
        if isinstance(self.model, DistributedDataParallel):
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
        self._order = BatchOrder(len(datasets.train), settings.batch_size, settings.seed)
        self._early_stop = EarlyStop(settings.patience, settings.min_improvement)
        self._recorder = Recorder(settings, self.ranks, self._traffic)
        self._tally = Tally(self._device)
        self._train_s = 0.0
        self._gradient_norm: float | None = None
        self._check_agreement()

    def fit(self) -> TrainResult:
        """Trains until the steps are done or patience has run out.

        Raises:
            CheckpointError: when resuming from what is damaged or does not fit, or when a new run
                would write into the checkpoints of another.
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
        """Returns loss (and accuracy, if judged) over the evaluation dataset; a collective."""
        dataset = self._datasets.evaluation
        if dataset is None:
            raise ValueError("There is no evaluation dataset: give Datasets one.")
        self.ranks.copy_from_first(self.module.buffers())
        mine = range(len(dataset))[self.ranks.rank :: self.ranks.world]
        size = self._micro_batch_size()
        tally = Tally(self._device)
        was_training = self.module.training
        self.module.eval()
        with torch.no_grad(), self._precision.forward():
            for start in range(0, len(mine), size):
                indices = mine[start : start + size]
                batch = self._datasets.fetch(dataset, indices, self._device)
                tally.add(self._objective(self.module, batch), len(indices))
        self.module.train(was_training)
        self.ranks.add_up(tally.values)
        return tally.summary()

    def _train_step(self) -> None:
        start = time.perf_counter()
        batch = self._order.next()
        mine = micro_batches(batch, self.ranks.rank, self.ranks.world, self.settings.accumulation)
        for indices in mine[:-1]:
            with self._no_sync():
                self._accumulate(indices, len(batch))
        if mine:
            self._accumulate(mine[-1], len(batch))
        else:  # a small last batch leaves this rank nothing, but the others await its gradients
            self._accumulate(batch, len(batch), samples=0)
        if self._traffic is not None:
            self._traffic.after_backward()
        stepped, self._gradient_norm = self._precision.step(
            self._optimizer, self.settings.clip_norm
        )
        self._optimizer.zero_grad()
        per_evaluation = isinstance(self._scheduler, ReduceLROnPlateau)
        if stepped and self._scheduler is not None and not per_evaluation:
            self._scheduler.step()
        self.step += 1
        self._train_s += time.perf_counter() - start

    def _accumulate(self, indices: list[int], batch_size: int, samples: int | None = None) -> None:
        """Adds the gradients of a micro-batch, which counts as `samples` (by default, all)."""
        samples = len(indices) if samples is None else samples
        batch = self._datasets.fetch(self._datasets.train, indices, self._device)
        with self._precision.forward():
            outcome = self._objective(self.model, batch)
        # The loss is a mean over this micro-batch and DDP takes the mean over ranks: the weight
        # makes of both the mean over the samples of the whole batch.
        self._precision.backward(outcome.loss * (samples * self.ranks.world / batch_size))
        if samples:
            self._tally.add(outcome, samples)

    def _no_sync(self) -> contextlib.AbstractContextManager[Any]:
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _after_step(self) -> None:
        settings = self.settings
        last = self.step == settings.steps
        evaluate = _is_due(self.step, settings.evaluate_every, last)
        if evaluate and self._datasets.evaluation is not None:
            self._judge(self.evaluate())
        last = last or self._early_stop.stopped
        save = _is_due(self.step, settings.checkpoint_every, last)
        # Also before a checkpoint, so that no record spans two sittings.
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
        """Returns the folder of checkpoints on rank 0, if there is one."""
        folder = self.settings.checkpoint_folder
        if self.ranks.rank != 0 or folder is None:
            return None
        return CheckpointFolder(folder, self.settings.keep_checkpoints)

    def _save(self) -> None:
        generators = self.ranks.gather(random_state.take_down(self._device))
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
        }
        checkpoints.write(self.step, state)

    def _start_or_resume(self) -> None:
        payload, problem = self.ranks.from_first(self._find_checkpoint())
        if problem is not None:
            raise CheckpointError(problem)
        if payload is None:
            return
        self._rehearse()
        state = decode(payload)
        try:
            self._load(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint of step {state.get('step')} does not fit this run: {error}"
            ) from error

    def _find_checkpoint(self) -> tuple[bytes | None, str | None]:
        """Returns, on rank 0, the checkpoint to go on from, or what is wrong."""
        checkpoints = self._checkpoints()
        if checkpoints is None:
            return None, None
        if not self.settings.resume:
            steps = checkpoints.steps()
            if steps and self.settings.checkpoint_every is not None:
                return None, (
                    f"{checkpoints.path(steps[-1])} is there from an earlier run. Resume it "
                    "(resume=True), or give this run another folder."
                )
            return None, None
        try:
            payload, damages = checkpoints.newest_good()
        except (CheckpointError, OSError) as error:
            return None, str(error)
        for damage in damages:
            _LOG.warning("%s The one before it is used.", damage)
        return payload, None

    def _rehearse(self) -> None:
        """Lets DDP see a backward pass before a saved state is put back.

        After its first pass DDP regroups the gradients into other buckets, and where more than two
        ranks add up, another place in a bucket can mean another order of additions. The run that is
        being resumed had its first pass behind it, so this one must too, to give the same bits.
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
                raise ValueError(f"it was written {there} a {name}, this run is {here} one.")
            if mine is not None:
                mine.load_state_dict(state[name])
        self._order.load_state_dict(state["order"])
        self._early_stop.best, self._early_stop.stale = state["early_stop"]
        self.step = state["step"]
        generators = state["generators"]
        if len(generators) == self.ranks.world:
            random_state.put_back(generators[self.ranks.rank], self._device)
        elif self.ranks.rank == 0:
            _LOG.warning(
                "The checkpoint is of %d ranks, this run has %d: the samples go on where they "
                "stopped, but random numbers (dropout) are new ones.",
                len(generators),
                self.ranks.world,
            )


def _wrap(model: nn.Module) -> nn.Module:
    if isinstance(model, DistributedDataParallel) or not dist.is_initialized():
        return model
    return DistributedDataParallel(model)


def _is_due(step: int, every: int | None, last: bool) -> bool:
    return every is not None and (last or step % every == 0)
