"""The C++ part of fastgpu_comm."""

from collections.abc import Sequence
from datetime import timedelta

import torch
from torch._C import _distributed_c10d as c10d

class Options(c10d.Backend.Options):
    """What `fastgpu` takes as pg_options; what is not set comes from FASTGPU_ variables.

    Args:
        timeout: Of each operation; wins over init_process_group's.
        fields: `algorithm`, `transport`, `interface`, `port_range` ("first-last", or a pair),
            `lanes`, `deterministic`, `engine_threads`, `pin`, `single_copy`: as the FASTGPU_
            variables of these names take them.
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
    engine_threads: str | None
    pin: str | None
    single_copy: str | None
    @property
    def timeout_is_set(self) -> bool: ...
    def __copy__(self) -> Options: ...
    def __deepcopy__(self, memo: dict[int, object]) -> Options: ...

class Backend(c10d.Backend):
    """One process group's collectives, over one communicator."""

    def __init__(self, store: c10d.Store, rank: int, size: int, options: Options) -> None: ...
    @property
    def options(self) -> Options: ...
    def stats(self) -> dict[str, float]: ...
    def comm_split_count(self) -> int: ...
    def perform_nocolor_split(self, device: torch.device) -> None: ...
    def _set_default_timeout(self, timeout: timedelta) -> None: ...

def empty(sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor: ...

class LinkCosts:
    """Of a class of links (docs/cost.md)."""

    def __init__(self) -> None: ...
    alpha_us: float
    beta_us_per_byte: float
    overhead_us: float
    cpu_us_per_byte: float

class Constants:
    """What the prices of a machine are made of (docs/cost.md)."""

    def __init__(self) -> None: ...
    same_host: LinkCosts
    between_hosts: LinkCosts
    nic_us_per_byte: float
    copy_us_per_byte: float
    reduce_us_per_byte: float
    cores_per_host: int
    switch_us: float
    def text(self) -> str: ...
    @staticmethod
    def from_text(text: str) -> Constants: ...

class SlowLink:
    """A link whose latency and time a byte are `factor` times the others'."""

    def __init__(self, source: int, target: int, factor: float) -> None: ...

class Machine:
    """What a simulation runs on; lists are by rank, and empty where all ranks are alike."""

    def __init__(
        self,
        *,
        constants: Constants = ...,
        channel_bytes: int = ...,
        rank_slowness: Sequence[float] = ...,
        start_us: Sequence[float] = ...,
        slow_links: Sequence[SlowLink] = ...,
    ) -> None: ...

class LinkUse:
    """What went from one rank to another."""

    source: int
    target: int
    frames: int
    bytes: int
    busy_us: float

class Simulated:
    """Times of a simulation, by rank."""

    finish_us: list[float]
    busy_us: list[float]
    links: list[LinkUse]
    @property
    def end_us(self) -> float: ...

class Proof:
    """That a plan does what its collective promises, or the counterexample."""

    @property
    def holds(self) -> bool: ...
    counterexample: str
    bytes_sent: list[int]
    frames_sent: list[int]
    steps: list[int]
    rounds: int
    orders: list[str]

Region = tuple[str, int, int]  # buffer, offset and size in bytes
Step = tuple[str, bool, int, Region, Region]  # verb, reduce, peer, source, target

class WorldPlan:
    """A collective's schedules on all ranks.

    Args:
        **fields: Any of the attributes.
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
