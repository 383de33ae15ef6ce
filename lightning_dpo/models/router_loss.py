"""The auxiliary loss of the routers of a mixture-of-experts model, which spreads tokens evenly over the experts.

The value is that of transformers' `load_balancing_loss_func` (equation 4 of https://arxiv.org/abs/2101.03961) over the
tokens of one forward pass, without padding. In the shared layout, a prompt is in a forward pass once.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model, recording_routers

_COEFFICIENT = "router_aux_loss_coef"
_FUNCTION = "load_balancing_loss_func"


def coefficient_of(policy: nn.Module) -> float:
    """The coefficient of the router loss; 0 for a model for which transformers does not compute one."""
    model = base_model(policy)
    if _function_of(model) is None:
        return 0.0
    return float(getattr(model.config.get_text_config(), _COEFFICIENT, None) or 0.0)


def set_coefficient(model: PreTrainedModel, coefficient: float) -> None:
    """Replace the coefficient in the model's config.

    Raises:
        UserError: transformers computes no router loss for this model.
    """
    config = model.config.get_text_config()
    if _function_of(model) is None or not hasattr(config, _COEFFICIENT):
        raise UserError(f"model.router_loss_coef has no effect: {type(model).__name__} has no router loss")
    setattr(config, _COEFFICIENT, float(coefficient))


class RouterLoss(nn.Module):
    """The router loss of a policy in training. Without a coefficient in the policy's config, it is 0 and not logged."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()
        self._recorded: list[tuple[Tensor, ...]] = []

    @contextmanager
    def recording(self, policy: nn.Module) -> Iterator[None]:
        """Context of a forward pass whose router logits are recorded."""
        if not coefficient_of(policy):
            yield
            return
        self._recorded.clear()

        def record(module: nn.Module, args: object, output: Any) -> None:
            if output.router_logits is not None:  # it is in a pass of the reference with the policy's weights
                self._recorded.append(output.router_logits)

        # The decoder and not the whole model, whose output is replaced by log-probs.
        hook = base_model(policy).get_decoder().register_forward_hook(record)
        try:
            with recording_routers():
                yield
        finally:
            hook.remove()

    def term(self, policy: nn.Module, batch: PreferenceBatch) -> Tensor | float:
        """The part of the step's loss from the routers in the recorded forward pass of `batch`.

        As in transformers, the loss is computed for each forward pass, and each counts by its number of pairs.
        """
        if not self._recorded:
            return 0.0
        model = base_model(policy)
        (logits,) = self._recorded
        self._recorded.clear()
        loss = balancing_loss(model, logits, batch.attention_mask)
        pairs = batch.counted.sum()
        self.mean.update(loss.detach(), weight=pairs)
        return coefficient_of(policy) * loss * pairs / batch.step_pairs

    def value(self) -> dict[str, Tensor]:
        """`train/router_loss` of the step, the mean over its pairs on all devices; empty without a router loss."""
        if not self.mean.update_called:
            return {}
        value = self.mean.compute()
        self.mean.reset()
        return {"train/router_loss": value}


def balancing_loss(model: PreTrainedModel, logits: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """transformers' router loss.

    Args:
        model: The model.
        logits: Router logits of each layer. Shape: (rows · length, experts).
        mask: Which tokens are not padding. Shape: (rows, length).
    """
    function: Any = _function_of(model)
    config = model.config.get_text_config()
    experts = getattr(model, "num_experts", None) or getattr(config, "num_experts", None) or config.num_local_experts
    chosen = getattr(model, "num_experts_per_tok", None) or config.num_experts_per_tok
    return function(logits, experts, chosen, mask)


def _function_of(model: PreTrainedModel) -> Any:
    """The function of the module of transformers that defines the model, or None."""
    modules = (sys.modules[one.__module__] for one in type(model).__mro__)
    return next((function for module in modules if (function := getattr(module, _FUNCTION, None))), None)
