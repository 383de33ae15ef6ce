"""Callbacks of a run."""

from lightning_dpo.callbacks.best_checkpoint import BestCheckpoint
from lightning_dpo.callbacks.guards import Guards
from lightning_dpo.callbacks.last_checkpoint import LastCheckpoint
from lightning_dpo.callbacks.memory import MemoryCheck
from lightning_dpo.callbacks.progress_bar import PreferenceProgressBar
from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.callbacks.shared_prefix import SharedPrefix
from lightning_dpo.callbacks.throughput import Throughput
from lightning_dpo.callbacks.validation import ValidationSchedule

__all__ = [
    "BestCheckpoint", "Guards", "LastCheckpoint", "MemoryCheck", "PreferenceProgressBar", "Samples", "SharedPrefix",
    "Throughput", "ValidationSchedule",
]  # fmt: skip
