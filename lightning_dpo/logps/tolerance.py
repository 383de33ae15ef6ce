"""Tolerance of the comparison of two computations of a log-prob."""

import torch

# In nats, per square root of the number of scored tokens. In fp32, two passes of one model are usually bitwise equal,
# but a kernel may sum in another order. Below fp32, every activation is rounded.
_TOLERANCES = {"32": 1e-4, "64": 1e-8}
_TOLERANCE_BELOW_FP32 = 5e-2


def tolerance(precision: str, weights: torch.dtype = torch.float32) -> float:
    """Maximum difference of two computations of a log-prob, in nats per square root of the number of scored tokens.

    Args:
        precision: Precision of the Trainer: `32-true`, `bf16-mixed`, ...
        weights: Dtype of the model's weights. A model in bf16 computes in bf16 with any precision.
    """
    if weights.itemsize < torch.float32.itemsize:
        return _TOLERANCE_BELOW_FP32
    return _TOLERANCES.get(precision.partition("-")[0], _TOLERANCE_BELOW_FP32)
