"""Losses without a reference model: only a small learning rate keeps the policy close to where it started."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses.checks import check_number
from lightning_dpo.losses.dpo import DPO
from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.losses.pairs import PairLogps
from lightning_dpo.losses.sft import SFT


@dataclass(frozen=True)
class TwoWay(DPO):
    """−log[π(y_w)^β / (π(y_w)^β + π(y_l)^β)] = −log σ(β log π(y_w) − β log π(y_l)): a softmax over the two answers.

    DPO with a uniform reference. Some texts call the denominator the partition function of DPO, which it is not: DPO's
    Z(x) = Σ_y π_ref(y|x) exp(r(x, y)/β) sums over all answers, cannot be computed, and cancels in the difference of the
    two rewards (Eq. 4 and 6 of https://arxiv.org/abs/2305.18290). This denominator has two terms and remains in the
    loss. Without the reference, the optimum is exp(r/β) / Σ exp(r/β), which forgets all that the model knew.

    CPO's preference term (https://arxiv.org/abs/2401.08417, Eq. 3). In TRL: `CPOTrainer` with `cpo_alpha=0`.

    Args:
        beta: Scale of the reward, per nat of log-prob. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
    """

    needs_reference = False

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β log π of each completion. Shape: (completions,)."""
        return self.beta * policy.sums


@dataclass(frozen=True)
class SimPO(TwoWay):
    """−log σ(β log π(y_w)/n_w − β log π(y_l)/n_l − γ − o): log-probs per token, and a target margin γ.

    Eq. 6 of https://arxiv.org/abs/2405.14734. In TRL: `CPOTrainer` with `loss_type=simpo`, `cpo_alpha=0`, and its
    `simpo_gamma` is γ. The authors' code, open-instruct and HALOs set γ/β.

    Args:
        beta: Scale of the reward, per nat of log-prob per token. Positive; the paper uses 2 to 2.5.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
        gamma: γ, the target reward margin. Not negative; the paper uses 0.3 to 1.6.
    """

    reads_lengths = True

    beta: float = 2.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gamma", self.gamma, "a number that is not negative", lambda gamma: gamma >= 0)

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β log π per token of each completion. Shape: (completions,)."""
        return self.beta * policy.sums / policy.lengths

    def margins(self, pairs: PairLogps) -> Tensor:
        """Reward margin minus γ and the offset. Shape: (pairs,)."""
        return super().margins(pairs) - self.gamma


@dataclass(frozen=True)
class CPO(TwoWay):
    """The two-way softmax plus supervised fine-tuning on the chosen answer: −log σ(β log π(y_w)/π(y_l)) + α SFT.

    Eq. 5 of https://arxiv.org/abs/2401.08417, whose SFT term is the sum over tokens. TRL's `CPOTrainer` is the same
    with `cpo_alpha` = α, except that its SFT term is the mean over the tokens of a micro-batch, and here over those of
    the optimizer step.

    Args:
        beta: Scale of the reward, per nat of log-prob. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
        alpha: α, weight of the SFT term. Positive.
    """

    reads_lengths = True
    logged = ("loss/preference", "loss/sft")

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, "a positive number; without SFT, use loss=two_way", lambda alpha: alpha > 0)

    def losses(self, pairs: PairLogps) -> Tensor:
        return super().losses(pairs) + self.alpha * SFT().losses(pairs)

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """The two terms."""
        return {"loss/preference": super().losses(pairs), "loss/sft": self.alpha * SFT().losses(pairs)}


@dataclass(frozen=True)
class ORPO(PreferenceLossFunction):
    """SFT − λ log σ(log-odds of y_w − log-odds of y_l), with odds p/(1−p) of the probability per token p = π^(1/n).

    Eq. 6 and 7 of https://arxiv.org/abs/2403.07691. TRL's `ORPOTrainer` is the same with `beta` = λ, except that its
    SFT term includes the tokens of the prompt. LLaMA-Factory computes log(1−p) as log1p(−exp(·)), which loses all
    digits for p near 1. The loss has no offsets, and its reward is the log-odds.

    Args:
        weight: λ, weight of the odds ratio. Positive.
    """

    needs_reference = False
    reads_lengths = True
    logged = ("loss/preference", "loss/sft")

    weight: float = 0.1

    def __post_init__(self) -> None:
        check_number("weight", self.weight, "a positive number; without it, use loss=sft", lambda weight: weight > 0)

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """log(p/(1−p)) of the probability per token of each completion. Shape: (completions,)."""
        # At p = 1, the odds are infinite. log p = −1e-7 is the largest below 0 whose exp is below 1 in float32.
        mean = (policy.sums / policy.lengths).clamp(max=-1e-7)
        return mean - torch.log(-torch.expm1(mean))

    def losses(self, pairs: PairLogps) -> Tensor:
        return self._preference(pairs) + SFT().losses(pairs)

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """The two terms."""
        return {"loss/preference": self._preference(pairs), "loss/sft": SFT().losses(pairs)}

    def _preference(self, pairs: PairLogps) -> Tensor:
        chosen, rejected = self.pair_rewards(pairs)
        return -self.weight * F.logsigmoid(chosen - rejected)
