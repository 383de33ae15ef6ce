"""An estimate of the disk space that checkpoints need, before the first step."""

import logging
import shutil
from pathlib import Path
from typing import Any

from lightning_dpo.training.memory_estimate import gigabytes, optimizer_numbers

log = logging.getLogger(__name__)


def check_space(module: Any, folder: Path, keep: int) -> str:
    """Log how much space the checkpoints need, and return an error message if the disk has less.

    Args:
        module: The module, before its first step. With an adapter, a checkpoint contains only the trained weights.
        folder: Folder of the checkpoints. Files that are already there are replaced.
        keep: Number of earlier checkpoints that are kept.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    frozen_base = not module.strict_loading  # see PolicyModule.configure_model
    weights = sum(p.numel() * p.element_size() for p in (trained if frozen_base else module.parameters()))
    optimization = getattr(module, "optimization", None)  # another LightningModule has none
    numbers = optimizer_numbers(optimization.make_optimizer) if optimization else 2.0
    whole = weights + numbers * sum(p.numel() * p.element_size() for p in trained)
    # While a checkpoint is written, the one that it replaces still exists.
    needed = (2 + keep) * whole + weights
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.glob("*.ckpt"))
    log.info("Checkpoints need up to %s of %s on the disk.", gigabytes(needed), gigabytes(free))
    if needed <= free:
        return ""
    return (
        f"{folder} has {gigabytes(free)} of free disk space, and the checkpoints need {gigabytes(needed)}: last.ckpt "
        f"with optimizer state {gigabytes(whole)}, {keep} earlier, one that is being written, and best.ckpt "
        f"{gigabytes(weights)}; free some space, write to another disk with hydra.run.dir, or set callbacks.last.keep=0"
    )
