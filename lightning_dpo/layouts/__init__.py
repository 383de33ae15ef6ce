"""How completions become the rows of a batch: one file per layout."""

from collections.abc import Callable

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.data.pairs import MicroBatch
from lightning_dpo.layouts.padded import PaddedLayout
from lightning_dpo.layouts.shared import SharedLayout

__all__ = ["Layout", "PaddedLayout", "SharedLayout"]

Layout = Callable[[MicroBatch], PreferenceBatch]
