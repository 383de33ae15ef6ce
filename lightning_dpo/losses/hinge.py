"""Hinge loss: zero once the margin reaches one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dpo.losses.interface import ImplicitRewards
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class Hinge(ImplicitRewards):
    """max(0, 1 − m), where m is the reward margin minus the pair's offset.

    The hinge-norm loss of RSO (https://arxiv.org/abs/2309.06657), after SLiC (https://arxiv.org/abs/2305.10425).

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    columns = frozenset({"weight", "offset", "label_noise"})

    def losses(self, pairs: PairLogps) -> Tensor:
        return torch.relu(1 - self.margins(pairs))
