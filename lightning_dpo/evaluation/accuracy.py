"""Accuracy of rewards on preference pairs, with intervals, overall and by group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_dpo.data.rows.statistics import longer_wins
from lightning_dpo.reports.intervals import wilson

_EDGES = (-64, -16, 16, 64)  # length of the chosen answer minus length of the rejected one, in tokens


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with its rewards.

    Attributes:
        where: `file:line`.
        source: Name of its source.
        chosen_reward: Reward of the chosen answer.
        rejected_reward: Reward of the rejected answer.
        chosen_length: Number of scored tokens of the chosen answer.
        rejected_length: Number of scored tokens of the rejected answer.
    """

    where: str
    source: str
    chosen_reward: float
    rejected_reward: float
    chosen_length: int
    rejected_length: int

    @property
    def margin(self) -> float:
        """Chosen reward minus rejected reward."""
        return self.chosen_reward - self.rejected_reward

    @property
    def right(self) -> float:
        """1 if the chosen answer has the larger reward, ½ for a tie, otherwise 0."""
        return (float(np.sign(self.margin)) + 1) / 2


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy over `pairs` pairs, of which `ties` are ties, with its 95 % interval (Wilson)."""

    pairs: int
    ties: int
    value: float
    low: float
    high: float


def accuracy(pairs: Sequence[ScoredPair]) -> Accuracy:
    """Share of pairs whose chosen answer has the larger reward. A tie counts one half."""
    share = sum(pair.right for pair in pairs) / len(pairs)
    return Accuracy(len(pairs), sum(pair.margin == 0 for pair in pairs), share, *wilson(share, len(pairs)))


def by_source(pairs: Sequence[ScoredPair]) -> dict[str, Accuracy]:
    """Accuracy of each source."""
    return _grouped(pairs, lambda pair: pair.source or "all")


def by_length_difference(pairs: Sequence[ScoredPair]) -> dict[str, Accuracy]:
    """Accuracy by length difference of the two answers."""
    names = [
        f"{-_EDGES[0]} or more shorter", f"{-_EDGES[1]} to {-_EDGES[0] - 1} shorter", "about equally long",
        f"{_EDGES[2]} to {_EDGES[3] - 1} longer", f"{_EDGES[3]} or more longer",
    ]  # fmt: skip

    def name(pair: ScoredPair) -> str:
        longer = pair.chosen_length - pair.rejected_length
        # Symmetric: a difference of -16 is in the first "shorter" group, and 16 in the first "longer" one.
        return names[sum((longer > edge) if edge < 0 else (longer >= edge) for edge in _EDGES)]

    found = _grouped(pairs, name)
    return {name: found[name] for name in names if name in found}


def length_baseline(pairs: Sequence[ScoredPair]) -> float:
    """Accuracy of always preferring the longer answer."""
    return longer_wins([pair.chosen_length for pair in pairs], [pair.rejected_length for pair in pairs])


def _grouped(pairs: Sequence[ScoredPair], name: Callable[[ScoredPair], str]) -> dict[str, Accuracy]:
    groups: dict[str, list[ScoredPair]] = {}
    for pair in pairs:
        groups.setdefault(name(pair), []).append(pair)
    return {key: accuracy(group) for key, group in sorted(groups.items())}
