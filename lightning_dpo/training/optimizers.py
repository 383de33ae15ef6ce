"""The default optimizer of `DPOModule`, and the optimizer of a policy."""

from collections.abc import Callable, Iterable

from torch import nn
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from lightning_dpo.errors import UserError


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
