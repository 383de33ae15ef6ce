"""Direct Preference Optimization as a PyTorch Lightning plugin.

>>> from lightning_dpo import DPO
>>> DPO(beta=0.3)
DPO(beta=0.3, label_smoothing=0.0)
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_dpo.data import PreferenceDataModule
    from lightning_dpo.errors import UserError
    from lightning_dpo.losses import DPO, IPO, SFT, Hinge
    from lightning_dpo.models import AdapterOff, AnotherModel, Auto, Continue, Frozen, LoRA, NoReference
    from lightning_dpo.module import DPOModule

__all__ = [
    "DPO", "IPO", "SFT", "AdapterOff", "AnotherModel", "Auto", "Continue", "DPOModule", "Frozen", "Hinge", "LoRA",
    "NoReference", "PreferenceDataModule", "UserError",
]  # fmt: skip

_HOMES = {
    "DPOModule": "module",
    "PreferenceDataModule": "data",
    "UserError": "errors",
    **dict.fromkeys(("DPO", "IPO", "SFT", "Hinge"), "losses"),
    **dict.fromkeys(("AdapterOff", "AnotherModel", "Auto", "Continue", "Frozen", "LoRA", "NoReference"), "models"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `--help` does not wait for torch."""
    if name == "__version__":
        return version("lightning-dpo")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return [*__all__, "__version__"]
