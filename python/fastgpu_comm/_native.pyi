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
            `lanes`, `deterministic`: as the FASTGPU_ variables of these names take them.
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
    @property
    def timeout_is_set(self) -> bool: ...
    def __copy__(self) -> Options: ...
    def __deepcopy__(self, memo: dict[int, object]) -> Options: ...

class Backend(c10d.Backend):
    """One process group's collectives, over one communicator."""

    def __init__(self, store: c10d.Store, rank: int, size: int, options: Options) -> None: ...
    def stats(self) -> dict[str, float]: ...
    def comm_split_count(self) -> int: ...
    def perform_nocolor_split(self, device: torch.device) -> None: ...
    def _set_default_timeout(self, timeout: timedelta) -> None: ...

def empty(sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor: ...
