"""Direct Preference Optimization as a PyTorch Lightning plugin.

>>> from lightning_dpo.losses import DPO
>>> DPO(beta=0.3)
DPO(beta=0.3, label_smoothing=0.0)
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_dpo.data.datamodule import PreferenceDataModule
    from lightning_dpo.errors import UserError
    from lightning_dpo.module import DPOModule

__all__ = ["DPOModule", "PreferenceDataModule", "UserError", "__version__"]

_HOMES = {
    "DPOModule": "lightning_dpo.module",
    "PreferenceDataModule": "lightning_dpo.data.datamodule",
    "UserError": "lightning_dpo.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the command line's `--help` does without torch."""
    if name == "__version__":
        return version("lightning-dpo")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lightning_dpo' has no attribute {name!r}")
