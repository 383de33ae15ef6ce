"""The precision that a device computes in, where none is asked for, and what it may do to a log-prob."""

import torch

# Nats, per square root of scored tokens. In fp32 two passes of one model are usually equal to the bit, but a kernel may
# order its sums anew; below, it is the rounding of every activation.
_TOLERANCES = {"32": 1e-4, "64": 1e-8}
_TOLERANCE_BELOW_FP32 = 5e-2


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` where the accelerator computes in bf16 by itself, else `32-true`.

    Args:
        accelerator: What the Trainer is given: `auto`, `gpu`, `cuda`, `cpu`, ...
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def tolerance(precision: str) -> float:
    """Nats, per square root of scored tokens, by which two ways to compute one log-prob may differ.

    Args:
        precision: The Trainer's: `32-true`, `bf16-mixed`, ...
    """
    return _TOLERANCES.get(precision.split("-")[0], _TOLERANCE_BELOW_FP32)


def compute_dtype(precision: str) -> torch.dtype:
    """What matrix products are computed in.

    Args:
        precision: The Trainer's: `32-true`, `bf16-mixed`, ...
    """
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return kinds.get(precision.split("-")[0], torch.float32)
