"""A world of few answers, in which losses are minimized on all pairs, and the optima that their papers derive."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses import PairLogps, PreferenceLossFunction

_DOUBLE = {"dtype": torch.float64}


class World(NamedTuple):
    """Two prompts with six answers each. Shapes: (prompts, answers)."""

    rewards: Tensor
    reference: Tensor
    """log π_ref."""
    lengths: Tensor
    scores: Tensor
    """A score of each answer; the offset of a pair is the difference."""

    @property
    def wins(self) -> Tensor:
        """P(i ≻ j). Shape: (prompts, answers, answers)."""
        return torch.sigmoid(self.rewards[:, :, None] - self.rewards[:, None, :])

    @property
    def frequencies(self) -> Tensor:
        """How often the pair (i, j) is labelled i ≻ j, if both answers are sampled from the reference."""
        mass = self.reference.exp()
        return mass[:, :, None] * mass[:, None, :] * self.wins


def small_world() -> World:
    generator = torch.Generator().manual_seed(3)
    rewards, reference, scores = torch.randn(3, 2, 6, generator=generator, **_DOUBLE)
    lengths = torch.tensor([[1.0, 2, 3, 1, 2, 3], [3, 1, 2, 2, 3, 1]], **_DOUBLE)
    return World(0.5 * rewards, reference.log_softmax(-1), lengths, 0.5 * scores)


def minimized(loss: PreferenceLossFunction, world: World, flipped: float = 0.0, offsets: bool = False) -> Tensor:
    """log π of all answers at the minimum of a smooth loss on all pairs. For the arguments, see `mean_loss`."""
    value_at = mean_loss(loss, world, flipped, offsets)
    logits = world.reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = value_at(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().log_softmax(-1)


def mean_loss(
    loss: PreferenceLossFunction, world: World, flipped: float = 0.0, offsets: bool = False
) -> Callable[[Tensor], Tensor]:
    """The mean of the loss on all pairs, weighted by their frequencies, as a function of the logits of all answers.

    Args:
        loss: The loss.
        world: The world.
        flipped: Fraction of labels that are flipped.
        offsets: Whether pairs have the offset of the scores.
    """
    frequencies = (1 - flipped) * world.frequencies + flipped * world.frequencies.mT
    prompts, winners, losers = (
        index.flatten() for index in torch.meshgrid(*map(torch.arange, (2, 6, 6)), indexing="ij")
    )
    weights = frequencies.flatten()
    if loss.whole_step:  # such losses have no weights, so pairs are repeated
        rows = torch.arange(len(weights)).repeat_interleave((weights / weights.sum() * 2000).round().long())
        prompts, winners, losers, weights = prompts[rows], winners[rows], losers[rows], torch.ones(len(rows), **_DOUBLE)
    offset = world.scores[prompts, winners] - world.scores[prompts, losers]

    def completions(logps: Tensor, answers: Tensor) -> CompletionLogps:
        sums, lengths = logps[prompts, answers], world.lengths[prompts, answers]
        # Each token has the same log-prob, which is not 0.
        within = torch.arange(3) < lengths[:, None]
        return CompletionLogps(sums, lengths, torch.where(within, (sums / lengths)[:, None], 0))

    mean_length = (weights * world.lengths[prompts, winners]).sum() / weights.sum()

    def value_at(logits: Tensor) -> Tensor:
        policy, reference = logits.log_softmax(-1), world.reference
        pairs = PairLogps(
            (completions(policy, winners), completions(policy, losers)),
            (completions(reference, winners), completions(reference, losers)),
            offset if offsets else torch.zeros_like(offset),
            mean_length,
        )
        return (weights * loss.losses(pairs)).sum() / weights.sum()

    return value_at


def gibbs(world: World, beta: float, more: Any = 0.0) -> Tensor:
    """π_ref exp((r + more)/β) / Z."""
    return (world.reference + (world.rewards + more) / beta).log_softmax(-1)


def hinge_optimum(world: World, beta: float) -> Tensor:
    """Log-ratios that are whole multiples of 1/β, up to a constant: the least among all of them.

    The minimum is that of a linear program whose constraints bound differences of two log-ratios by 1/β. Its matrix is
    totally unimodular, so one of its solutions is integral in units of 1/β.
    """
    units = torch.cartesian_prod(*[torch.arange(6)] * 6).double()  # a larger range would have a gap of more than 1
    margins = units[:, :, None] - units[:, None, :]
    losses = [(frequencies * (1 - margins).relu()).sum((1, 2)) for frequencies in world.frequencies]
    best = torch.stack([units[values.argmin()] for values in losses])
    return (world.reference + best / beta).log_softmax(-1)


def ipo_optimum(world: World, tau: float) -> Tensor:
    """π_ref exp(P(y ≻ μ)/τ) / Z, with pairs sampled from μ = π_ref: Eq. 9 of the paper."""
    return (world.reference + (world.wins * world.reference.exp()[:, None, :]).sum(-1) / tau).log_softmax(-1)


def chosen_frequencies(world: World) -> Tensor:
    """How often each answer is chosen."""
    frequencies = world.frequencies.sum(-1)
    return (frequencies / frequencies.sum(-1, keepdim=True)).log()


def per_token_optimum(world: World, beta: float, reference: Tensor) -> Tensor:
    """Rewards per token: β (log π − log reference)/n = r − λ."""
    return _normalized(lambda level: reference + world.lengths * (world.rewards - level) / beta, -100.0, 100.0)


def forward_kl_optimum(world: World, beta: float) -> Tensor:
    """β (1 − π_ref/π) = r − λ."""
    least = world.rewards.amax(-1, keepdim=True) - beta
    return _normalized(lambda level: world.reference - (1 - (world.rewards - level) / beta).log(), least, least + 100)


def jensen_shannon_optimum(world: World, beta: float) -> Tensor:
    """β log(2π/(π + π_ref)) = r − λ."""
    half = torch.tensor(0.5, **_DOUBLE)
    least = world.rewards.amax(-1, keepdim=True) + beta * half.log()
    return _normalized(
        lambda level: world.reference + (half * ((world.rewards - level) / beta).exp()).logit(), least, least + 100
    )


def alpha_optimum(world: World, beta: float, alpha: float) -> Tensor:
    """β (1 − (π/π_ref)^−α)/α = r − λ."""
    least = world.rewards.amax(-1, keepdim=True) - beta / alpha
    return _normalized(
        lambda level: world.reference - (1 - alpha * (world.rewards - level) / beta).log() / alpha, least, least + 100
    )


def _normalized(logps_at: Any, least: Any, most: Any) -> Tensor:
    """`logps_at(λ)`, which decreases in λ, at the λ of each prompt where its probabilities sum to 1."""
    low, high = (torch.as_tensor(bound, **_DOUBLE).expand(2, 1).clone() for bound in (least, most))
    for _ in range(200):
        middle = (low + high) / 2
        above = logps_at(middle).exp().sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return logps_at(high)
