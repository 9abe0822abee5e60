"""The C++ part of fastgpu_comm. Import its names from `fastgpu_comm.native`."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch._C import _distributed_c10d as c10d

class Options(c10d.Backend.Options):
    """The `pg_options` of the backend `fastgpu`.

    An option that is not set here comes from its FASTGPU_ variable, or has its default.

    Args:
        timeout: The time-out of each operation. It overrides init_process_group's.
        fields: Any of the options below, with the values that its FASTGPU_ variable takes
            (docs/design.md). `port_range` is "first-last" or a pair of integers.

    Raises:
        InvalidArgumentError: An option is unknown or has a bad value; the message lists what is
            allowed.
    """

    def __init__(
        self,
        *,
        timeout: timedelta | None = None,
        **fields: str | int | bool | tuple[int, int] | None,
    ) -> None: ...
    algorithm: str | None
    transport: str | None
    interface: str | None
    port_range: str | None
    lanes: str | None
    deterministic: str | None
    single_copy: str | None
    codec: str | None
    gpu_engine: str | None
    @property
    def timeout_is_set(self) -> bool: ...
    store_ends: bool
    def __copy__(self) -> Options: ...
    def __deepcopy__(self, memo: dict[int, object]) -> Options: ...

class Backend(c10d.Backend):
    """The collectives and messages of one process group, over one communicator."""

    def __init__(self, store: c10d.Store, rank: int, size: int, options: Options) -> None: ...
    @property
    def options(self) -> Options: ...
    def stats(self) -> dict[str, float]: ...
    @property
    def on_one_host(self) -> bool: ...
    # Bound by c10d, whose own stub omits it.
    def monitored_barrier(self, timeout: timedelta, wait_all_ranks: bool) -> None: ...
    def comm_split_count(self) -> int: ...
    def perform_nocolor_split(self, device: torch.device) -> None: ...
    def _is_initialized(self) -> bool: ...
    def _set_default_timeout(self, timeout: timedelta) -> None: ...
    # Bound by c10d itself from torch 2.14 on, the last two from 2.15 on.
    def _add_ephemeral_timeout(self, timeout: timedelta) -> None: ...
    def register_abort_hook(self, hook_id: int, hook: Callable[[], None]) -> None: ...
    def unregister_abort_hook(self, hook_id: int) -> None: ...
    def _start_time_estimate(self) -> None: ...
    def _end_time_estimate(self) -> float: ...

def end(why: str, by_error: bool) -> None: ...
def empty(sizes: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor: ...
def use_devices(runtime: object, kernels: object, type: str) -> None: ...
def device_type() -> str: ...

class GradientReducer:
    """The communication hook of DistributedDataParallel (csrc/torch/reducer)."""

    def __init__(
        self,
        backend: Backend,
        encodings: Sequence[tuple[str, int, int | None]],
        weighted: str | None,
    ) -> None: ...
    def attach(self, reducer: c10d.Reducer) -> None: ...
    def set_backend(self, backend: Backend) -> None: ...
    def split_buckets(self, reducer: c10d.Reducer) -> bool: ...
    def set_step(self, step: int) -> None: ...
    def set_encodings(self, encodings: Sequence[tuple[str, int, int | None]]) -> None: ...
    def announce_weight(self, weight: float) -> None: ...
    def least_of(self, values: torch.Tensor) -> None: ...
    def take_least(self) -> torch.Tensor | None: ...
    @property
    def passes(self) -> int: ...
    @property
    def lead_s(self) -> float: ...
    def residual(self, parameter: int) -> torch.Tensor | None: ...
    def set_residual(self, parameter: int, residual: torch.Tensor) -> None: ...
    def scale_residuals(self, factor: float) -> None: ...
    def keep_copies(self, keep: bool) -> None: ...
    def undo(self) -> None: ...
    def abandon_step(self) -> None: ...
    def stats(self) -> list[dict[str, Any]]: ...

def buckets_of(reducer: c10d.Reducer) -> list[list[int]]: ...
def set_buckets(reducer: c10d.Reducer, buckets: Sequence[Sequence[int]]) -> None: ...
def parameters_of(reducer: c10d.Reducer, bucket: c10d.GradBucket) -> list[int]: ...
def codec_costs(codec: str) -> tuple[float, float, float, float]: ...
def encode(
    codec: str,
    source: torch.Tensor,
    residual: torch.Tensor | None,
    seed: int | None,
    key: int,
) -> torch.Tensor: ...
def decode(codec: str, encoded: torch.Tensor, target: torch.Tensor, add: bool) -> None: ...

class LinkCosts:
    """The cost constants of one class of links (docs/cost.md)."""

    def __init__(self) -> None: ...
    alpha_us: float
    beta_us_per_byte: float
    overhead_us: float
    cpu_us_per_byte: float

class Constants:
    """The cost constants of a machine (docs/cost.md)."""

    def __init__(self) -> None: ...
    same_host: LinkCosts
    between_hosts: LinkCosts
    nic_us_per_byte: float
    copy_us_per_byte: float
    reduce_us_per_byte: float
    cores_per_host: int
    switch_us: float
    is_gpu: bool
    def text(self) -> str: ...
    @staticmethod
    def from_text(text: str) -> Constants: ...

class SlowLink:
    """A link whose latency and time per byte are `factor` times the normal ones."""

    def __init__(self, source: int, target: int, factor: float) -> None: ...

class Machine:
    """The model of a machine that a simulation runs on.

    Lists have one entry per rank; an empty list means that all ranks are alike.
    """

    def __init__(
        self,
        *,
        constants: Constants = ...,
        channel_bytes: int = ...,
        rank_slowness: Sequence[float] = ...,
        start_us: Sequence[float] = ...,
        slow_links: Sequence[SlowLink] = ...,
    ) -> None: ...
    constants: Constants
    channel_bytes: int
    rank_slowness: list[float]
    start_us: list[float]
    slow_links: list[SlowLink]

class LinkUse:
    """The traffic from one rank to another, over all lanes."""

    source: int
    target: int
    frames: int
    bytes: int
    busy_us: float

class Simulated:
    """The times of a simulation, by rank."""

    finish_us: list[float]
    busy_us: list[float]
    links: list[LinkUse]
    @property
    def end_us(self) -> float: ...

class Proof:
    """The proof that a plan fulfils its collective's contract, or a counterexample."""

    @property
    def holds(self) -> bool: ...
    counterexample: str
    bytes_sent: list[int]
    frames_sent: list[int]
    steps: list[int]
    rounds: int
    orders: list[str]

Region = tuple[str, int, int]  # buffer, offset in bytes, size in bytes
Step = tuple[str, bool, int, Region, Region]  # verb, reduce, peer, source, target

class WorldPlan:
    """The schedules of all ranks for one collective.

    Args:
        fields: Values for any of the attributes.
    """

    def __init__(self, **fields: str | int | Sequence[int]) -> None: ...
    collective: str
    algorithm: str
    world: int
    count: int
    element_size: int
    lanes: int
    shots: int
    root: int
    host_of: list[int]
    one_machine: bool
    all_counts: list[int]
    chunk_bytes: int
    def build(self, rank: int) -> list[list[Step]]: ...
    def verify(self, capacity: int = 0, seed: int = 1) -> Proof: ...
    def simulate(self, machine: Machine) -> Simulated: ...
    def estimated_steps(self) -> float: ...
    def predict_us(self, constants: Constants) -> float: ...
    def tree_chunk_bytes(self, constants: Constants) -> int: ...
    def choose(
        self,
        constants: Constants,
        *,
        forced: str = "auto",
        lanes: int = 0,
        deterministic: bool = False,
    ) -> tuple[str, int, int, int]: ...

def algorithms_of(collective: str) -> list[str]: ...
def collectives() -> list[str]: ...
def measured_constants() -> Constants: ...

# What `fastgpu-comm env` reports.
def compiler() -> str: ...
def interfaces(pattern: str) -> list[tuple[str, str]]: ...
def usable_instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def single_copy_is_slow() -> bool: ...
def variables() -> dict[str, str]: ...
def check_variable(name: bytes, text: bytes) -> None: ...
