"""Lengths of tokenized pairs and ids of prompts, computed in Arrow without converting tokens to Python numbers."""

import numpy as np
import pyarrow.compute as compute
from datasets import Dataset


def lengths(tokens: Dataset, column: str) -> np.ndarray:
    """Length of the list in each row of `column`; -1 for null. Shape: (rows,), int64."""
    # The Arrow format avoids conversion to Python lists, which takes minutes for large datasets.
    lists = tokens.select_columns([column]).with_format("arrow")[:][column]
    return compute.fill_null(compute.list_value_length(lists), -1).to_numpy().astype(np.int64)


def prompt_numbers(tokens: Dataset) -> np.ndarray:
    """An id per row that is equal for rows with the same prompt. Shape: (rows,), int64."""
    column = tokens.select_columns(["prompt_ids"]).with_format("arrow")[:]["prompt_ids"].combine_chunks()
    ids, ends = column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())
    numbers: dict[bytes, int] = {}
    # Bytes of the token ids are hashable, and equal only for equal prompts.
    prompts = (ids[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])


def scored_lengths(tokens: Dataset, side: str) -> np.ndarray:
    """Number of scored tokens of each row's `chosen` or `rejected` completion. Shape: (rows,), int64."""
    counts = lengths(tokens, f"{side}_ids").copy()
    (masked,) = (lengths(tokens, f"{side}_scored") >= 0).nonzero()
    if len(masked):
        counts[masked] = [sum(mask) for mask in tokens.select(masked)[f"{side}_scored"]]
    return counts
