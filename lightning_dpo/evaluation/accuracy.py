"""How well implicit rewards tell the chosen answer from the rejected one: with intervals, in parts, and calibrated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_dpo.data.rows.statistics import longer_wins
from lightning_dpo.reports.intervals import wilson

_EDGES = (-64, -16, 16, 64)  # tokens by which the chosen answer is longer


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair and what the model says of it.

    Attributes:
        where: `file:line`.
        source: Name of its source.
        chosen_reward: β(log π − log π_ref) of the chosen answer.
        rejected_reward: The same of the rejected one.
        chosen_length: Scored tokens.
        rejected_length: Scored tokens.
    """

    where: str
    source: str
    chosen_reward: float
    rejected_reward: float
    chosen_length: int
    rejected_length: int

    @property
    def margin(self) -> float:
        """Chosen reward less rejected reward."""
        return self.chosen_reward - self.rejected_reward

    @property
    def right(self) -> float:
        """1 where the chosen answer has the larger reward, ½ for a tie, else 0."""
        return (float(np.sign(self.margin)) + 1) / 2


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy over `pairs` pairs, of which `ties` are ties, with its 95 % interval (Wilson's)."""

    pairs: int
    ties: int
    value: float
    low: float
    high: float


def accuracy(pairs: Sequence[ScoredPair]) -> Accuracy:
    """Share of pairs whose chosen answer has the larger reward; a tie counts one half."""
    share = sum(pair.right for pair in pairs) / len(pairs)
    return Accuracy(len(pairs), sum(pair.margin == 0 for pair in pairs), share, *wilson(share, len(pairs)))


def by_source(pairs: Sequence[ScoredPair]) -> dict[str, Accuracy]:
    """Accuracy of each source."""
    return _grouped(pairs, lambda pair: pair.source or "all")


def by_length_difference(pairs: Sequence[ScoredPair]) -> dict[str, Accuracy]:
    """Accuracy by how many tokens longer the chosen answer is."""
    names = [
        f"{-_EDGES[0]} or more shorter", f"{-_EDGES[1]} to {-_EDGES[0] - 1} shorter", "about as long",
        f"{_EDGES[2]} to {_EDGES[3] - 1} longer", f"{_EDGES[3]} or more longer",
    ]  # fmt: skip

    def name(pair: ScoredPair) -> str:
        longer = pair.chosen_length - pair.rejected_length
        # Both sides alike: -16 is shorter as 16 is longer.
        return names[sum((longer > edge) if edge < 0 else (longer >= edge) for edge in _EDGES)]

    found = _grouped(pairs, name)
    return {name: found[name] for name in names if name in found}


def length_baseline(pairs: Sequence[ScoredPair]) -> float:
    """Accuracy of a judge that prefers the longer answer."""
    return longer_wins([pair.chosen_length for pair in pairs], [pair.rejected_length for pair in pairs])


def _grouped(pairs: Sequence[ScoredPair], name: Callable[[ScoredPair], str]) -> dict[str, Accuracy]:
    groups: dict[str, list[ScoredPair]] = {}
    for pair in pairs:
        groups.setdefault(name(pair), []).append(pair)
    return {key: accuracy(group) for key, group in sorted(groups.items())}
