"""Modifiers: losses that hold another loss and change its input or add to it. They nest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses.checks import check_number
from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.losses.pairs import PairLogps, reference_of, rejected_of
from lightning_dpo.losses.sft import SFT


def _of_the_loss(name: str) -> Any:
    """A property with the declaration of the loss that a modifier holds."""
    return property(lambda modifier: getattr(modifier.loss, name))


@dataclass(frozen=True)
class Modifier(PreferenceLossFunction):
    """Base of modifiers. It declares what the loss that it holds declares, and has its rewards.

    Args:
        loss: The loss.
    """

    # Properties, so that a subclass with a `__post_init__` of its own does not lose them.
    needs_reference = _of_the_loss("needs_reference")
    needs_rejected = _of_the_loss("needs_rejected")
    needs_tokens = _of_the_loss("needs_tokens")
    reads_lengths = _of_the_loss("reads_lengths")
    whole_step = _of_the_loss("whole_step")
    has_rewards = _of_the_loss("has_rewards")
    columns = _of_the_loss("columns")
    logged = _of_the_loss("logged")

    loss: PreferenceLossFunction

    def __post_init__(self) -> None:
        if not isinstance(self.loss, PreferenceLossFunction):
            raise ValueError(f"{type(self).__name__}: loss must be a loss, such as DPO(beta=0.1), got {self.loss!r}")

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """The rewards of the loss. Shape: (completions,)."""
        return self.loss.rewards(policy, reference)

    def losses(self, pairs: PairLogps) -> Tensor:
        """The losses of the loss. Shape: (pairs,)."""
        return self.loss.losses(pairs)

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """The logged values of the loss. Shapes: (pairs,)."""
        return self.loss.logged_values(pairs)


@dataclass(frozen=True)
class _OnLogps(Modifier):
    """Base of modifiers that change the log-probs. They hold losses that do not read lengths themselves."""

    reads_lengths = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.reads_lengths:
            name, held = type(self).__name__, type(self.loss).__name__
            raise ValueError(
                f"{name} cannot hold {held}, which reads lengths itself: put {name} inside, or use another loss"
            )

    def changed(self, pairs: PairLogps) -> PairLogps:
        """The pairs that the loss receives."""
        raise NotImplementedError

    def losses(self, pairs: PairLogps) -> Tensor:
        """The losses of the loss with changed log-probs. Shape: (pairs,)."""
        return self.loss.losses(self.changed(pairs))

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """The logged values of the loss with changed log-probs. Shapes: (pairs,)."""
        return self.loss.logged_values(self.changed(pairs))


@dataclass(frozen=True)
class LengthNormalized(_OnLogps):
    """The loss with mean log-probs per token in place of sums, and so with rewards and offsets per token.

    With DPO, the length-normalized DPO of Tülu 3 and OLMo (https://arxiv.org/abs/2411.15124): `dpo_norm` of
    open-instruct, `sigmoid_norm` of TRL. As a log-ratio per token is small, β is larger: Tülu 3 uses 5.

    Args:
        loss: The loss.
    """

    def changed(self, pairs: PairLogps) -> PairLogps:
        """The pairs with mean log-probs."""
        return pairs.with_completions(_mean)

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """The rewards of the loss per token. Shape: (completions,)."""
        return self.loss.rewards(_mean(policy), reference and _mean(reference))


def _mean(completions: CompletionLogps) -> CompletionLogps:
    return replace(completions, sums=completions.sums / completions.lengths)


@dataclass(frozen=True)
class LDDPO(_OnLogps):
    """The loss with the tokens of the longer answer weighted by α after the length of the shorter one.

    With DPO, LD-DPO: https://arxiv.org/abs/2409.06411. TRL's `ld_alpha` is the same. LLaMA-Factory and ms-swift
    weight only the tokens of the policy, as `of_reference=False` does: then even an untrained policy has a margin. The
    rewards are those of whole answers.

    Args:
        loss: The loss.
        alpha: α. 1: no change; 0: tokens beyond the length of the shorter answer are ignored. In [0, 1).
        of_reference: Whether the tokens of the reference are weighted too.
    """

    needs_tokens = True

    alpha: float = 0.5
    of_reference: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, "in [0, 1); 1 has no effect", lambda alpha: 0 <= alpha < 1)
        if self.of_reference and not self.loss.needs_reference:
            raise ValueError(
                f"of_reference has no effect: {type(self.loss).__name__} reads no reference; set it to false"
            )

    def changed(self, pairs: PairLogps) -> PairLogps:
        """The pairs with weighted sums."""
        shorter = torch.minimum(pairs.chosen_length, pairs.rejected_length)[:, None]
        chosen, rejected = (self._weighted(side, shorter) for side in (pairs.policy[0], rejected_of(pairs.policy[1])))
        changed = replace(pairs, policy=(chosen, rejected))
        if self.of_reference:
            reference = [self._weighted(reference_of(side), shorter) for side in pairs.reference]
            changed = replace(changed, reference=(reference[0], reference[1]))
        return changed

    def _weighted(self, completions: CompletionLogps, shorter: Tensor) -> CompletionLogps:
        tokens = completions.tokens
        beyond = torch.arange(tokens.shape[1], device=tokens.device) >= shorter
        return replace(completions, sums=torch.where(beyond, self.alpha * tokens, tokens).sum(1))


@dataclass(frozen=True)
class WithSFT(Modifier):
    """The loss plus `weight` times supervised fine-tuning on the chosen answer, in nats per token.

    With DPO, RPO (https://arxiv.org/abs/2404.19733v3, Eq. 1). RPO divides by the length of each answer; here, as in
    TRL's `loss_type=[sigmoid, sft]`, all tokens count equally. TRL's mean is over the tokens of a micro-batch, and here
    over those of the optimizer step. The term prevents the probability of chosen answers from falling.

    Args:
        loss: The loss.
        weight: Weight of the SFT term. Positive.
    """

    reads_lengths = True

    weight: float = 1.0

    @property
    def logged(self) -> tuple[str, ...]:  # type: ignore[override]  # a property, as in the base
        """The terms of the loss, or the loss as one term, and the SFT term."""
        return (*(self.loss.logged or ("loss/preference",)), "loss/sft")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("weight", self.weight, "a positive number", lambda weight: weight > 0)
        if len(set(self.logged)) < len(self.logged):
            raise ValueError(f"WithSFT cannot hold {type(self.loss).__name__}, which has an SFT term already")

    def losses(self, pairs: PairLogps) -> Tensor:
        """The losses of the loss, plus the SFT term. Shape: (pairs,)."""
        return self.loss.losses(pairs) + self.weight * SFT().losses(pairs)

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """The terms. Shapes: (pairs,)."""
        terms = self.loss.logged_values(pairs) or {"loss/preference": self.loss.losses(pairs)}
        return terms | {"loss/sft": self.weight * SFT().losses(pairs)}


@dataclass(frozen=True)
class WeightedSum(PreferenceLossFunction):
    """A weighted sum of losses, each logged as `loss/NAME`. The rewards are those of the first.

    `WithSFT(WeightedSum({"dpo": DPO(), "bco": BCO()}, {"dpo": 0.8, "bco": 0.2}))` is MPO, Eq. 3 of
    https://arxiv.org/abs/2411.10442, without the reward shift of its BCO term, and with an SFT term over all tokens:
    `loss_type=[sigmoid, bco_pair, sft]` of TRL with `loss_weights=[0.8, 0.2, 1.0]`.

    Args:
        parts: The losses by name.
        weights: Weight of each loss. Positive.
    """

    parts: Mapping[str, PreferenceLossFunction]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        parts = list(self.parts.values())
        if len(parts) < 2 or not all(isinstance(part, PreferenceLossFunction) and not part.logged for part in parts):
            raise ValueError(f"parts must contain two or more losses that are not composed, got {self.parts!r}")
        if self.weights.keys() != self.parts.keys():
            raise ValueError(f"weights must have the names of parts ({', '.join(self.parts)}), got {self.weights}")
        for name, weight in self.weights.items():
            check_number(f"weights.{name}", weight, "a positive number", lambda weight: weight > 0)
        for name in ("needs_reference", "needs_rejected", "needs_tokens", "whole_step", "reads_lengths"):
            object.__setattr__(self, name, any(getattr(part, name) for part in parts))
        object.__setattr__(self, "has_rewards", parts[0].has_rewards)
        object.__setattr__(self, "columns", frozenset.intersection(*(part.columns for part in parts)))
        object.__setattr__(self, "logged", tuple(f"loss/{name}" for name in self.parts))

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """The rewards of the first loss. Shape: (completions,)."""
        return next(iter(self.parts.values())).rewards(policy, reference)

    def losses(self, pairs: PairLogps) -> Tensor:
        """The weighted sum. Shape: (pairs,)."""
        return torch.stack(list(self.logged_values(pairs).values())).sum(0)

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """The weighted terms. Shapes: (pairs,)."""
        return {f"loss/{name}": self.weights[name] * part.losses(pairs) for name, part in self.parts.items()}
