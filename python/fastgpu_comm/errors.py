"""The exceptions that collectives and `Work.wait()` raise.

`InvalidArgumentError` changes nothing: the process group stays usable. After any other error the
group is dead: every pending operation fails once, every later call raises the first error again,
and the contents of the failed operations' tensors are unspecified.
"""

from __future__ import annotations

from torch.distributed import DistBackendError


class CommError(DistBackendError):
    """A collective or a point-to-point operation failed.

    Attributes:
        rank: The rank in the group that raised the error, or None if unknown.
        peer: The rank that caused the error, or None if unknown.
        op: The operation that failed, such as "all_reduce", or None.
        sequence: The operation's number within the group, or None.
    """

    rank: int | None = None
    peer: int | None = None
    op: str | None = None
    sequence: int | None = None


class InvalidArgumentError(CommError, ValueError):
    """The arguments or options are invalid. Nothing has changed and the group stays usable."""


class PeerLostError(CommError):
    """The rank `peer` died, left the group, or cannot be reached."""


class CollectiveTimeoutError(CommError, TimeoutError):
    """An operation did not finish within its time-out."""


class CollectiveMismatchError(CommError):
    """Two ranks made different calls; the message names both."""


class AbortedError(CommError):
    """The group was aborted or destroyed while the operation was pending."""


class AuthenticationError(CommError):
    """A peer does not have the job's secret."""


class RendezvousError(CommError):
    """The ranks could not find each other when the group was created."""


class OutOfResourcesError(CommError):
    """The rank `peer` ran out of file descriptors, memory or threads; the message has the limit."""
