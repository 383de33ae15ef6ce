"""Time to write and to verify a checkpoint, relative to `torch.save`.

    python -m tests.benchmarks.checkpoint_writer [--gigabytes 4] [--repeat 5]

The sides alternate. `torch.save` returns when the data are in the page cache of the operating system, and a power
failure loses them. So it is also measured with the `fsync` that the writer of this project does.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_dpo.checkpoints.reading import damage_of
from lightning_dpo.checkpoints.writing import AtomicCheckpointIO


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    """`torch.save`."""
    torch.save(state, path)


def save_and_sync(state: dict[str, torch.Tensor], path: Path) -> None:
    """`torch.save`, and then on disk."""
    torch.save(state, path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def atomic(state: dict[str, torch.Tensor], path: Path) -> None:
    """The writer of this project."""
    AtomicCheckpointIO().save_checkpoint(state, path)


def verify(_: dict[str, torch.Tensor], path: Path) -> None:
    """The verification of all checksums when a run resumes."""
    assert not damage_of(path)


SIDES: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    "torch.save": save,
    "torch.save and fsync": save_and_sync,
    "this project": atomic,
    "verification": verify,
}


def main() -> None:
    """Measure all sides in turn, and print medians and ratios to `torch.save`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    state = {f"layer.{index}": torch.randn(25_000_000) for index in range(int(arguments.gigabytes * 10))}
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        save(state, Path(folder, "last.ckpt"))  # all sides replace a file
        for number in range(arguments.repeat):
            for name, side in list(SIDES.items())[:: -1 if number % 2 else 1]:
                os.sync()  # so that no side waits for the data of the one before
                start = time.perf_counter()
                side(state, Path(folder, "last.ckpt"))
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        ratios = [value / other for value, other in zip(values, seconds["torch.save"], strict=True)]
        print(
            f"{name:22} median {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f}), ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
