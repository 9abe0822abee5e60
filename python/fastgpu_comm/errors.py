"""What the collectives and `Work.wait()` raise.

After an `InvalidArgumentError` nothing has changed. After any other, the process group is dead:
every pending operation has failed once, later calls raise the same failure, and the contents of the
tensors of the failed operations are unspecified.
"""

from __future__ import annotations

from torch.distributed import DistBackendError


class CommError(DistBackendError):
    """A collective or a message failed.

    Attributes:
        rank: The rank that raises this, in its group; None where it is not known.
        peer: The rank that is to blame, or None.
        op: The operation that was struck, as "all_reduce", or None.
        sequence: Its number in the group, or None.
    """

    rank: int | None = None
    peer: int | None = None
    op: str | None = None
    sequence: int | None = None


class InvalidArgumentError(CommError, ValueError):
    """The call cannot be made like this; nothing changed, and the group stays usable."""


class PeerLostError(CommError):
    """A rank died, left, or cannot be reached: `peer`."""


class CollectiveTimeoutError(CommError, TimeoutError):
    """An operation did not end in its time."""


class CollectiveMismatchError(CommError):
    """The ranks called different things; the message names both calls."""


class AbortedError(CommError):
    """The group was aborted or destroyed while the operation was pending."""


class AuthenticationError(CommError):
    """A peer does not hold the job's secret."""


class RendezvousError(CommError):
    """The ranks of the group could not be brought together."""
