"""The frozen reference: a separate model, the policy without its adapter, or only log-probs in a cache."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lightning_dpo.batch import CompletionLogps, PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps, summed


class Reference(ABC):
    """A frozen model. It is not trained and not part of checkpoints.

    Attributes:
        starts_equal: Whether the policy equals the reference before the first step, so that all rewards are 0.
        model: The reference's own model. `DPOModule` keeps it outside its module tree, so that checkpoints, optimizers
            and strategy wrappers do not include it. None if the reference uses the policy's weights.
        answers: Whether the reference can generate answers.
    """

    starts_equal: bool
    model: PreTrainedModel | None = None
    answers: bool = True

    @property
    def on_device(self) -> bool:
        """Whether `model` is on the device of the policy between its uses."""
        return True

    @abstractmethod
    def active(self) -> AbstractContextManager[PreTrainedModel]:
        """Context that returns the model to call, in eval mode and without gradient."""

    def logps(self, batch: PreferenceBatch, tokens: bool = False) -> CompletionLogps:
        """log π_ref(y|x) of every completion of `batch`, and of its tokens if `tokens`.

        A forward pass, unless the batch has the log-probs of tokens from the cache.
        """
        if batch.reference_logps is not None:
            return summed(batch.reference_logps, batch, tokens)
        with self.active() as model:
            return completion_logps(model, batch, tokens)


class FrozenModel(Reference):
    """A separate model.

    Args:
        model: The model. It is set to eval mode without gradients.
        starts_equal: See `Reference`.
        policy: If given, the model is on the CPU, and on the device of this policy only while it is active.
    """

    def __init__(self, model: PreTrainedModel, starts_equal: bool, policy: PreTrainedModel | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.starts_equal, self._policy = starts_equal, policy

    @property
    def on_device(self) -> bool:
        """Whether the model stays on the device of the policy."""
        return self._policy is None

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        """Context that returns the model, on the device of the policy."""
        model = cast(PreTrainedModel, self.model)
        move = cast(Callable[[torch.device | str], object], model.to)
        # `no_grad` and not `inference_mode`: the log-probs become constants in the graph of the loss.
        with torch.no_grad():
            if self._policy is None:
                yield model
                return
            move(self._policy.device)
            try:
                yield model
            finally:
                move("cpu")


class WithinPolicy(Reference):
    """The policy itself, with its adapter disabled or replaced by a frozen copy.

    Args:
        policy: The policy.
        switched: Context in which the policy is the reference.
        starts_equal: See `Reference`.
        adapted: Whether the reference has an adapter: the copy.
    """

    def __init__(
        self,
        policy: PeftModel,
        switched: Callable[[PeftModel], AbstractContextManager[None]],
        starts_equal: bool,
        adapted: bool,
    ) -> None:
        self.policy, self.switched, self.starts_equal, self.adapted = policy, switched, starts_equal, adapted

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        with torch.no_grad(), self.switched(self.policy):
            yield cast(PreTrainedModel, self.policy)


class NotHeld(Reference):
    """The policy before training, of which nothing is kept in memory: only the cache has its log-probs.

    Args:
        starts_equal: See `Reference`.
    """

    answers = False

    def __init__(self, starts_equal: bool) -> None:
        self.starts_equal = starts_equal

    def active(self) -> AbstractContextManager[PreTrainedModel]:
        raise UserError(
            "the reference is not in memory (reference.between=none), and its cache does not have the log-probs of "
            "this text: set reference.between to cpu or device"
        )


class Zero(Reference):
    """log π_ref = 0, so that rewards are β log π."""

    starts_equal = False
    answers = False

    def active(self) -> AbstractContextManager[PreTrainedModel]:
        raise RuntimeError("this reference has no model")

    def logps(self, batch: PreferenceBatch, tokens: bool = False) -> CompletionLogps:
        lengths = batch.completion_lengths
        zeros = lengths.new_zeros(len(lengths), int(lengths.max())) if tokens else None
        return CompletionLogps(torch.zeros_like(lengths), lengths, zeros)
