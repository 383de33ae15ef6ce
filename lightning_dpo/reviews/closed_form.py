"""What can be known exactly of a policy in a world that can be enumerated."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClosedForm:
    """Exact quantities of policies over all reviews of each film, all *given* that a review was written.

    DPO constrains nothing but the odds between reviews, so a policy is normalised over them first; how much of its
    mass that is, `mass_on_reviews` says. Means over films are plain.

    Args:
        rewards: True reward of every review of every film. Shape: (films, reviews), float64.
        reference: log π_ref of every review, as a language model gives it. Shape: (films, reviews).
        beta: β of the objective E[r] − β KL(π‖π_ref); None: no optimum is known.
    """

    rewards: Tensor
    reference: Tensor
    beta: float | None

    @property
    def optimum(self) -> Tensor:
        """log π*: the Gibbs policy π_ref exp(r/β) / Z, Eq. 4 of https://arxiv.org/abs/2305.18290. (films, reviews)."""
        if self.beta is None:
            raise ValueError("without beta, no optimum is known")
        return self._gibbs(self.beta)

    def frontier(self) -> list[tuple[float, float, float]]:
        """β, KL from the reference and expected reward of the Gibbs policies, from the reference to the best reviews.

        No policy has more reward at the same KL: each maximises E[r] − β KL for its β.
        """
        return [(beta, *self._kl_and_reward(beta)) for beta in torch.logspace(2.5, -2.5, 101).tolist()]

    def frontier_reward(self, kl: float) -> float:
        """The largest expected reward of any policy at most `kl` nats from the reference."""
        low, high = -12.0, 12.0  # of log β; the KL falls as β grows
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
        """Everything that is known of `policy`.

        Args:
            policy: log π of every review, as the language model gives it. Shape: (films, reviews).
        """
        reference = self.reference.double().log_softmax(-1)
        given = policy.double().log_softmax(-1)
        values: dict[str, Tensor | float] = {
            "reward": _mean(given, self.rewards),
            "reference_reward": _mean(reference, self.rewards),
            "kl_reference": _kl(given, reference),
            "mass_on_reviews": policy.double().exp().sum(-1).mean(),
            "best_accuracy": best_accuracy(self.rewards),
        }
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
    """Accuracy of the true reward on pairs of different reviews drawn uniformly and labelled by Bradley and Terry.

    Whoever knows the rewards picks the larger one and is right with probability σ(|r₁ − r₂|), a tie being ½.
    """
    gaps = (rewards[:, :, None] - rewards[:, None, :]).abs()
    reviews = rewards.shape[-1]
    # The diagonal, a review beside itself, is no pair; there σ(0) = ½.
    return ((torch.sigmoid(gaps).sum((1, 2)) - reviews / 2) / (reviews * (reviews - 1))).mean()


def _mean(logps: Tensor, values: Tensor) -> Tensor:
    return (logps.exp() * values).sum(-1).mean()


def _kl(logps: Tensor, other: Tensor) -> Tensor:
    return (logps.exp() * (logps - other)).sum(-1).mean()
