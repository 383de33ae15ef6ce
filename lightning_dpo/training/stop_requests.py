"""Agreement of all ranks on the optimizer step after which a signal stops them."""

import signal
from typing import Any

import torch
from torch import distributed


class StopRequest:
    """A signal that any rank received, and which all ranks handle after the same optimizer step.

    A rank that stopped one step before the others would leave them waiting in a collective. The ranks exchange the
    number of the signal with gloo, between CPUs. A tensor on the device would make every step wait for the GPU, and
    NCCL is not usable from a signal handler.

    Attributes:
        received: The signal that this rank received; None if it received none.
        agreed: On several ranks, the signal that all of them know of; None if there is none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self._group: Any = None
        self._ranks = 1

    def connect(self, ranks: int) -> None:
        """Forget earlier signals, and connect the ranks. A collective call.

        Args:
            ranks: Number of ranks that train together.
        """
        self.received = self.agreed = None
        self._ranks = ranks
        # None is the group of all ranks, which is used if it communicates between CPUs.
        if ranks > 1 and self._group is None and distributed.get_backend() != "gloo":
            self._group = distributed.new_group(backend="gloo")

    @property
    def number(self) -> int | None:
        """The signal to handle now: on one rank, as soon as it is received."""
        return self.received if self._ranks == 1 else self.agreed

    def exchange(self, flag: bool = False) -> bool:
        """Update `agreed`. A collective call.

        Returns:
            Whether `flag` is set on any rank.
        """
        if self._ranks == 1:
            return flag
        values = torch.tensor([self.received or 0, int(flag)])
        distributed.all_reduce(values, distributed.ReduceOp.MAX, self._group)
        number, any_flag = values.tolist()
        self.agreed = signal.Signals(number) if number else None
        return bool(any_flag)

    def gathered(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank. A collective call."""
        values: list[Any] = [value] * self._ranks
        if self._ranks > 1:
            distributed.all_gather_object(values, value, self._group)
        return values
