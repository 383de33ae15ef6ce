"""The precision that a device computes in."""

import torch


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` where the accelerator computes in bf16 by itself, else `32-true`.

    Args:
        accelerator: What the Trainer is given: `auto`, `gpu`, `cuda`, `cpu`, ...
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def compute_dtype(precision: str) -> torch.dtype:
    """What matrix products are computed in.

    Args:
        precision: The Trainer's: `32-true`, `bf16-mixed`, ...
    """
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return kinds.get(precision.split("-")[0], torch.float32)
