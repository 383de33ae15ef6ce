"""The layouts of a batch: one file for each."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from lightning_dpo.batch import MicroBatch, PreferenceBatch
from lightning_dpo.layouts.padded import PaddedLayout
from lightning_dpo.layouts.shared import SharedLayout

__all__ = ["Layout", "LayoutName", "Layouts", "PaddedLayout", "SharedLayout"]

Layout = Callable[[MicroBatch], PreferenceBatch]
LayoutName = Literal["auto", "shared", "padded"]


class Layouts(NamedTuple):
    """The two layouts of one dataset."""

    padded: PaddedLayout
    shared: SharedLayout
