"""The shape of a stream that holds each prompt once: which stretch of it may attend to what."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

ATTENTION = "shared_prefix"
"""The name under which transformers knows the attention over such a stream, `attention.py`."""

_STREAMING = ContextVar("streaming", default=False)


class Stretch(NamedTuple):
    """Consecutive tokens of the stream. Each attends to those before it in its stretch, and to all of a prefix.

    Attributes:
        length: Tokens.
        prefix: Tokens at the beginning of the latest stretch that has no prefix itself, to which these attend as well:
            the prompt of a further completion. 0 for a prompt and its first completion.
    """

    length: int
    prefix: int


class Segments:
    """The stretches of a stream, in its order; together they are all of it.

    A plain class, because FSDP copies dataclasses and casts what they hold on their way into every layer.

    Attributes:
        stretches: Prompt and first completion of a group, then each further completion, then the next group.
    """

    __slots__ = ("_made", "stretches")

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = tuple(stretches)
        self._made: dict[Hashable, Any] = {}

    def made(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once: masks and indices are the same in every layer."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def __getstate__(self) -> tuple[Stretch, ...]:
        return self.stretches

    def __setstate__(self, stretches: tuple[Stretch, ...]) -> None:
        self.__init__(stretches)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Segments":
        """Itself: lengths are wanted on the CPU, and what is made of them is made where it is needed."""
        return self

    def pin_memory(self) -> "Segments":
        """Itself: there is no memory to pin."""
        return self


@contextmanager
def streaming() -> Iterator[None]:
    """Within, a model is called on a stream: its attention is handed `segments` and needs no mask."""
    token = _STREAMING.set(True)
    try:
        yield
    finally:
        _STREAMING.reset(token)


def is_streaming() -> bool:
    """Whether a model is being called on a stream."""
    return _STREAMING.get()
