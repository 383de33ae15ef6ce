"""The precision that a device computes in, where none is asked for."""

import torch


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` where the accelerator computes in bf16 by itself, else `32-true`.

    Args:
        accelerator: What the Trainer is given: `auto`, `gpu`, `cuda`, `cpu`, ...
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
