"""Tolerance of the comparison of two computations of a log-prob."""

# In nats, per square root of the number of scored tokens. In fp32, two passes of one model are usually bitwise equal,
# but a kernel may sum in another order. Below fp32, every activation is rounded.
_TOLERANCES = {"32": 1e-4, "64": 1e-8}
_TOLERANCE_BELOW_FP32 = 5e-2


def tolerance(precision: str) -> float:
    """Maximum difference of two computations of a log-prob, in nats per square root of the number of scored tokens.

    Args:
        precision: Precision of the Trainer: `32-true`, `bf16-mixed`, ...
    """
    return _TOLERANCES.get(precision.partition("-")[0], _TOLERANCE_BELOW_FP32)
