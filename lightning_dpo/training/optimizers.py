"""The optimizer of a module that is given none."""

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer


def default_optimizer(parameters: Iterable[Parameter]) -> Optimizer:
    """AdamW at a learning rate of 1e-6, without weight decay: a common choice for full fine-tuning by DPO."""
    return AdamW(parameters, lr=1e-6, weight_decay=0.0, fused=True)
