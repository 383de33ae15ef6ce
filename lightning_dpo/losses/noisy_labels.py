"""Losses that expect a known share of wrong labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.losses.checks import check_label_smoothing
from lightning_dpo.losses.interface import ImplicitRewards
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class Robust(ImplicitRewards):
    """[−(1−ε) log σ(m) + ε log σ(−m)] / (1−2ε), where m is the reward margin minus the pair's offset.

    Section 3.1 of https://arxiv.org/abs/2403.00409. If a fraction ε of the labels is flipped at random, its expectation
    is the DPO loss of the correct labels, so its optimum is that of DPO. It is not bounded from below: a single pair
    can make it arbitrarily negative. TRL's `robust` is the same. A column of label noise is not read: use DPO for it.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: ε, the fraction of wrong labels. In [0, 0.5).
    """

    columns = frozenset({"weight", "offset"})

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    @property
    def kl_beta(self) -> float | None:
        """β, if a fraction ε of the labels is flipped."""
        return self.beta

    def losses(self, pairs: PairLogps) -> Tensor:
        margins, noise = self.margins(pairs), self.label_smoothing
        return (-(1 - noise) * F.logsigmoid(margins) + noise * F.logsigmoid(-margins)) / (1 - 2 * noise)


@dataclass(frozen=True)
class EXO(ImplicitRewards):
    """KL(q‖p) with q = (σ(m), σ(−m)) and p = (1−ε, ε), where m is the reward margin minus the pair's offset.

    Eq. 16 of https://arxiv.org/abs/2402.00856 for two answers. DPO minimizes the opposite direction, KL(p‖q). For a
    pair, the loss is least at m = log((1−ε)/ε), so ε also sets how far margins grow. TRL's `exo_pair` is the same.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: ε, the probability that a label is wrong. In (0, 0.5).
    """

    columns = frozenset({"weight", "offset", "label_noise"})

    label_smoothing: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing, positive=True)

    def losses(self, pairs: PairLogps) -> Tensor:
        margins = self.margins(pairs)
        target = torch.tensor([1 - self.label_smoothing, self.label_smoothing], dtype=margins.dtype).log().tolist()
        first = margins.sigmoid() * (F.logsigmoid(margins) - target[0])
        return first + (-margins).sigmoid() * (F.logsigmoid(-margins) - target[1])
