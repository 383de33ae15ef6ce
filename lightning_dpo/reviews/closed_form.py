"""Exact quantities of a policy in a world that can be enumerated."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClosedForm:
    """Exact quantities of policies over all reviews of each film, conditioned on the output being a review.

    DPO determines only the odds between reviews, so policies are normalized over reviews. `mass_on_reviews` is the
    normalizer. Means over films are unweighted.

    Args:
        rewards: True reward of every review of every film. Shape: (films, reviews), float64.
        reference: log π_ref of every review according to the language model. Shape: (films, reviews).
        beta: β of the objective E[r] − β KL(π‖π_ref); None: the optimum is not defined.
        words: Number of words of every review, to report the expected length; None: all are equally long. Shape:
            (reviews,).
    """

    rewards: Tensor
    reference: Tensor
    beta: float | None
    words: Tensor | None = None

    @property
    def optimum(self) -> Tensor:
        """log π*: the Gibbs policy π_ref exp(r/β) / Z, Eq. 4 of https://arxiv.org/abs/2305.18290. (films, reviews)."""
        if self.beta is None:
            raise ValueError("without beta, the optimum is not defined")
        return self._gibbs(self.beta)

    def frontier(self) -> list[tuple[float, float, float]]:
        """β, KL from the reference and expected reward of the Gibbs policies, from the reference to the best reviews.

        No policy has more reward at the same KL, because each maximizes E[r] − β KL for its β.
        """
        return [(beta, *self._kl_and_reward(beta)) for beta in torch.logspace(2.5, -2.5, 101).tolist()]

    def frontier_reward(self, kl: float) -> float:
        """The largest expected reward of any policy at most `kl` nats from the reference."""
        low, high = -12.0, 12.0  # bounds of log β: the KL decreases in β
        # Bisection on log β. 60 halvings of an interval of 24 reach the precision of float64.
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._kl_and_reward(math.exp(middle))[0] > kl else (low, middle)
        return self._kl_and_reward(math.exp(high))[1]

    def _gibbs(self, beta: float) -> Tensor:
        return (self.reference.double() + self.rewards / beta).log_softmax(-1)

    def _kl_and_reward(self, beta: float) -> tuple[float, float]:
        gibbs = self._gibbs(beta)
        reference = self.reference.double().log_softmax(-1)
        return float(_kl(gibbs, reference)), float(_mean(gibbs, self.rewards))

    def report(self, policy: Tensor) -> dict[str, float]:
        """The exact quantities of `policy`.

        Args:
            policy: log π of every review according to the language model. Shape: (films, reviews).
        """
        reference = self.reference.double().log_softmax(-1)
        given = policy.double().log_softmax(-1)
        values: dict[str, Tensor | float] = {
            "reward": _mean(given, self.rewards),
            "reference_reward": _mean(reference, self.rewards),
            "kl_reference": _kl(given, reference),
            "mass_on_reviews": policy.double().exp().sum(-1).mean(),
        }
        if self.words is None:
            values["best_accuracy"] = best_accuracy(self.rewards)
        else:
            values |= {"words": _mean(given, self.words), "reference_words": _mean(reference, self.words)}
        values["frontier_reward"] = self.frontier_reward(float(values["kl_reference"]))
        if self.beta is not None:
            values |= {
                "optimal_reward": _mean(self.optimum, self.rewards),
                "optimal_kl_reference": _kl(self.optimum, reference),
                "kl_optimum": _kl(given, self.optimum),
                "kl_optimum_before": _kl(reference, self.optimum),
            }
        return {name: float(value) for name, value in values.items()}


def best_accuracy(rewards: Tensor) -> Tensor:
    """Accuracy of the true reward on uniformly sampled pairs of different reviews with Bradley-Terry labels.

    Choosing the larger reward is right with probability σ(|r₁ − r₂|), which is ½ for a tie.
    """
    gaps = (rewards[:, :, None] - rewards[:, None, :]).abs()
    reviews = rewards.shape[-1]
    # Subtract the diagonal, where a review is paired with itself and σ(0) = ½.
    return ((torch.sigmoid(gaps).sum((1, 2)) - reviews / 2) / (reviews * (reviews - 1))).mean()


def reward_accuracy(rewards: Tensor, true: Tensor, probabilities: Tensor) -> float:
    """Probability that `rewards` rank two sampled reviews with different true rewards correctly. A tie counts one half.

    Args:
        rewards: Rewards of all reviews. Shape: (films, reviews).
        true: True rewards. Shape: (films, reviews).
        probabilities: Probability of each review in the sample. Shape: (reviews,).
    """
    right = total = 0.0
    for found, known in zip(rewards.double(), true, strict=True):
        agreement = torch.sign(found[:, None] - found) * torch.sign(known[:, None] - known)
        weights = probabilities[:, None] * probabilities * (known[:, None] != known)
        right, total = right + float((weights * (agreement / 2 + 0.5)).sum()), total + float(weights.sum())
    return right / total


def _mean(logps: Tensor, values: Tensor) -> Tensor:
    return (logps.exp() * values).sum(-1).mean()


def _kl(logps: Tensor, other: Tensor) -> Tensor:
    return (logps.exp() * (logps - other)).sum(-1).mean()
