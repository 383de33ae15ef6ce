"""The precision of computations on a device."""

import torch
from lightning import LightningModule
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, Precision


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` if the accelerator supports bf16 in hardware, otherwise `32-true`.

    Args:
        accelerator: The argument of the Trainer: `auto`, `gpu`, `cuda`, `cpu`, ...
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of matrix products.

    Args:
        precision: The precision of the Trainer: `32-true`, `bf16-mixed`, ...
    """
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return kinds.get(precision.split("-")[0], torch.float32)


def convert(module: LightningModule, plugin: Precision) -> None:
    """Convert weights to the precision of the Trainer, as the strategy does later, for `bf16-true` and the like."""
    if isinstance(plugin, DoublePrecision | HalfPrecision):
        plugin.convert_module(module)
