"""The default optimizer of `DPOModule`, and the optimizer of a policy."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from lightning_dpo.errors import UserError

# These change how an update is computed, and not its result.
_NO_RESULT = ("params", "initial_lr", "foreach", "fused", "capturable", "differentiable")


def default_optimizer(parameters: Iterable[Parameter]) -> Optimizer:
    """AdamW with a learning rate of 1e-6 and no weight decay: a common choice for full fine-tuning with DPO."""
    return AdamW(parameters, lr=1e-6, weight_decay=0.0, fused=True)


def optimizer_of(policy: nn.Module, make_optimizer: Callable[[Iterable[Parameter]], Optimizer]) -> Optimizer:
    """The optimizer of the trainable parameters of `policy`.

    Raises:
        UserError: There are none.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError("the policy has no trainable parameters; to train its adapter, set adapter=Continue()")
    optimizer = make_optimizer(trained)
    # A fused optimizer would unscale fp16 gradients inside its step. Their norm is needed before.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # torch's own undeclared flag
    return optimizer


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of each parameter group that determine the result of an update."""
    return [
        {name: value for name, value in group.items() if name not in _NO_RESULT} for group in optimizer.param_groups
    ]


def optimizer_facts(settings: list[dict[str, Any]]) -> dict[str, str]:
    """The result of `settings_of` as text, by config key."""
    keys = ["optimizer"] if len(settings) == 1 else [f"optimizer[{index}]" for index in range(len(settings))]
    return {
        f"{key}.{name}": _plain(value)
        for key, group in zip(keys, settings, strict=True)
        for name, value in group.items()
    }


def _plain(value: Any) -> str:
    value = value.item() if isinstance(value, Tensor) else value
    value = float(value) if type(value) is int else value  # 1 and 1.0 are the same setting
    return str(list(value) if isinstance(value, tuple) else value)
