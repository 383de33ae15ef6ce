"""Stops a run whose processes were started with different settings or different code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_dpo.checkpoints.identity import packages
from lightning_dpo.settings import flat
from lightning_dpo.training.rank_checks import check_same


class Agreement(Callback):
    """Compares settings and code of all processes before a model is loaded.

    Args:
        settings: The settings of this process, nested by name.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare.

        Raises:
            UserError: They differ; the message contains the difference.
        """
        if trainer.world_size > 1 and stage == "fit":
            check_same(flat(self.settings) | code(), trainer.strategy)


def code() -> dict[str, str]:
    """A digest of this package's source, and the versions of the main dependencies."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return {"the code of lightning_dpo": digest.hexdigest()[:12]} | packages()
