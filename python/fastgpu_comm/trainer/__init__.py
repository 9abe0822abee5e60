"""A small trainer for data-parallel training over any torch.distributed process group.

Start with `loop`, the training loop. The other modules are parts of it: `settings`, `data` (the
samples of a rank), `objective` (the loss), `precision`, `communication` (the cost of the gradients'
all-reduce), `checkpoint`, `random_state`, `metrics`, `recorder`, `progress`, `early_stop` and
`ranks`. The command `fastgpu-comm train` consists of `demo`, `text`, `gpt` and `curve`.
"""

from fastgpu_comm.trainer.checkpoint import CheckpointError as CheckpointError
from fastgpu_comm.trainer.data import Datasets as Datasets
from fastgpu_comm.trainer.loop import Trainer as Trainer
from fastgpu_comm.trainer.objective import Outcome as Outcome
from fastgpu_comm.trainer.objective import classification as classification
from fastgpu_comm.trainer.recorder import TrainResult as TrainResult
from fastgpu_comm.trainer.settings import TrainerSettings as TrainerSettings
