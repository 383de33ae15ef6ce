"""How completions become the rows of a batch: one file per layout."""

from lightning_dpo.layouts.padded import PaddedLayout

__all__ = ["PaddedLayout"]
