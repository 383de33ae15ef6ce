"""A loss as a user writes it by the guide: without a reference, with rewards."""

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_dpo.losses import PreferenceLossFunction


@dataclass(frozen=True)
class SimPO(PreferenceLossFunction):
    """−log σ(β (log π(y_w)/n_w − log π(y_l)/n_l)). https://arxiv.org/abs/2405.14734 without its margin."""

    needs_reference = False
    columns = frozenset({"weight"})
    beta: float = 2.0

    def losses(self, pairs):
        margins = pairs.chosen / pairs.chosen_length - pairs.rejected / pairs.rejected_length
        return -F.logsigmoid(self.beta * margins)

    def rewards(self, policy, reference):
        return self.beta * policy.sums / policy.lengths


@dataclass(frozen=True)
class Silent(PreferenceLossFunction):
    """A loss that declares rewards and does not define them."""

    needs_reference = False
    beta: float = 2.0

    def losses(self, pairs):
        return pairs.rejected - pairs.chosen
