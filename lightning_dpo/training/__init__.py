"""Optimizer, schedule, strategy, and the checks of a training."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_dpo.training.optimizers import default_optimizer
    from lightning_dpo.training.schedules import transformers_schedule, warmup_constant, warmup_cosine
    from lightning_dpo.training.strategies import FullySharded

__all__ = ["FullySharded", "default_optimizer", "transformers_schedule", "warmup_constant", "warmup_cosine"]

_HOMES = {
    "FullySharded": "lightning_dpo.training.strategies",
    "default_optimizer": "lightning_dpo.training.optimizers",
    "transformers_schedule": "lightning_dpo.training.schedules",
    "warmup_constant": "lightning_dpo.training.schedules",
    "warmup_cosine": "lightning_dpo.training.schedules",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts without Lightning."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return __all__
