"""A run: its state, settings, loggers, results, and its role in a sweep."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_dpo.runs.loggers import csv_logger, wandb_logger

__all__ = ["csv_logger", "wandb_logger"]

_HOMES = {
    "csv_logger": "lightning_dpo.runs.loggers",
    "wandb_logger": "lightning_dpo.runs.loggers",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts without Lightning."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return __all__
