"""The default optimizer of `DPOModule`."""

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer


def default_optimizer(parameters: Iterable[Parameter]) -> Optimizer:
    """AdamW with a learning rate of 1e-6 and no weight decay: a common choice for full fine-tuning with DPO."""
    return AdamW(parameters, lr=1e-6, weight_decay=0.0, fused=True)
