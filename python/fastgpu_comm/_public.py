"""The public names of `fastgpu_comm`, each imported from the module that defines it.

This is the only list of them: `fastgpu_comm` looks up its attributes here. The module
`fastgpu_comm.fsdp`, which imports private parts of torch, is loaded apart.
"""

from fastgpu_comm import codecs as codecs
from fastgpu_comm import hooks as hooks
from fastgpu_comm.backend import empty as empty
from fastgpu_comm.backend import mem_pool as mem_pool
from fastgpu_comm.backend import monitored_barrier as monitored_barrier
from fastgpu_comm.backend import stats as stats
from fastgpu_comm.ddp import DistributedDataParallel as DistributedDataParallel
from fastgpu_comm.errors import AbortedError as AbortedError
from fastgpu_comm.errors import AuthenticationError as AuthenticationError
from fastgpu_comm.errors import CollectiveMismatchError as CollectiveMismatchError
from fastgpu_comm.errors import CollectiveTimeoutError as CollectiveTimeoutError
from fastgpu_comm.errors import CommError as CommError
from fastgpu_comm.errors import InvalidArgumentError as InvalidArgumentError
from fastgpu_comm.errors import OutOfResourcesError as OutOfResourcesError
from fastgpu_comm.errors import PeerLostError as PeerLostError
from fastgpu_comm.errors import RendezvousError as RendezvousError
from fastgpu_comm.gloo import GlooReplacement as GlooReplacement
from fastgpu_comm.gloo import replace_gloo as replace_gloo
from fastgpu_comm.native import Options as Options
from fastgpu_comm.outer import OuterOptimizer as OuterOptimizer
from fastgpu_comm.trainer import Trainer as Trainer
