"""`lightning-dpo env`: versions, devices and settings of the environment, for a bug report."""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "lightning-dpo"
# Variables that change what a run does. Only these values are printed: others can be secrets.
_HARMLESS = (
    "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "SLURM_NNODES", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID",
    "WANDB_MODE",
)  # fmt: skip
_PREFIXES = ("CUDA_", "HF_", "HYDRA_", "LIGHTNING_", "MKL_", "NCCL_", "OMP_", "PL_", "SLURM_", "TORCH", "WANDB_")


def packages() -> dict[str, str]:
    """The installed versions of the dependencies, optional ones included."""
    found = {}
    for name in dict.fromkeys(Requirement(line).name for line in requires(PACKAGE) or ()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def facts() -> Iterator[tuple[str, str]]:
    """Names and values, in the order in which they are printed."""
    import psutil
    import torch

    yield PACKAGE, f"{version(PACKAGE)} ({Path(__file__).parents[1]})"
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    cores = f"{psutil.cpu_count(logical=False)} cores, {psutil.cpu_count()} threads"
    yield "CPU", f"{cores}, of which torch uses {torch.get_num_threads()}"
    yield "memory", f"{psutil.virtual_memory().total / 1e9:.1f} GB"
    yield "CUDA of torch", str(torch.version.cuda)
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield f"GPU {index}", f"{device.name}, {device.total_memory / 1e9:.1f} GB, sm_{device.major}{device.minor}"
    yield "MPS", "available" if torch.backends.mps.is_available() else "not available"
    yield from packages().items()
    names = sorted(name for name in os.environ if name.startswith(_PREFIXES))
    shown = (f"{name}={os.environ[name]}" if name in _HARMLESS else name for name in names)
    yield "environment variables", ", ".join(shown) or "none"


def main() -> None:
    """The console script."""
    argparse.ArgumentParser(
        prog="lightning-dpo env",
        description="Prints versions, devices, and the names of environment variables and some of their values.",
    ).parse_args()
    for name, value in facts():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
