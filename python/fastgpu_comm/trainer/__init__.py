"""A small trainer for data-parallel training over any torch.distributed process group.

`loop.py` is the loop, to be read in one sitting. Beside it, one idea a module: `settings`,
`data` (which samples a rank sees), `objective` (what a model is trained for), `precision`,
`communication` (what the gradients' all-reduce costs), `checkpoint`, `random_state`, `metrics`,
`recorder`, `progress`. `demo`, `text`, `gpt` and `curve` are the command `fastgpu-comm train`.
"""

from fastgpu_comm.trainer.checkpoint import CheckpointError
from fastgpu_comm.trainer.data import Datasets
from fastgpu_comm.trainer.loop import Trainer
from fastgpu_comm.trainer.objective import Outcome, classification
from fastgpu_comm.trainer.recorder import TrainResult
from fastgpu_comm.trainer.settings import TrainerSettings

__all__ = [
    "CheckpointError",
    "Datasets",
    "Outcome",
    "TrainResult",
    "Trainer",
    "TrainerSettings",
    "classification",
]
