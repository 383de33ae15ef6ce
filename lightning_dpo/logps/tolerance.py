"""How far two computations of one log-prob may differ."""

# Nats, per square root of scored tokens. In fp32 two passes of one model are usually equal to the bit, but a kernel may
# sum in another order; below fp32, every activation is rounded.
_TOLERANCES = {"32": 1e-4, "64": 1e-8}
_TOLERANCE_BELOW_FP32 = 5e-2


def tolerance(precision: str) -> float:
    """Nats, per square root of scored tokens, by which two ways to compute one log-prob may differ.

    Args:
        precision: The Trainer's: `32-true`, `bf16-mixed`, ...
    """
    return _TOLERANCES.get(precision.partition("-")[0], _TOLERANCE_BELOW_FP32)
