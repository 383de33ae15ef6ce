"""Lengths of tokenized pairs, read off Arrow's own lists: no token becomes a Python number."""

import numpy as np
import pyarrow.compute as compute
from datasets import Dataset


def lengths(tokens: Dataset, column: str) -> np.ndarray:
    """Elements of the list in every row of `column`; -1 where there is none. Shape: (rows,), int64."""
    lists = tokens.select_columns([column]).with_format("arrow")[:][column]
    return compute.fill_null(compute.list_value_length(lists), -1).to_numpy().astype(np.int64)


def scored_lengths(tokens: Dataset, side: str) -> np.ndarray:
    """Scored tokens of the `chosen` or `rejected` completion of every row. Shape: (rows,), int64."""
    counts = lengths(tokens, f"{side}_ids").copy()
    (masked,) = (lengths(tokens, f"{side}_scored") >= 0).nonzero()
    if len(masked):
        counts[masked] = [sum(mask) for mask in tokens.select(masked)[f"{side}_scored"]]
    return counts
