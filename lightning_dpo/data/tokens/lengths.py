"""Lengths of tokenized pairs and which share a prompt, read off Arrow's own lists: no token becomes a Python number."""

import numpy as np
import pyarrow.compute as compute
from datasets import Dataset


def lengths(tokens: Dataset, column: str) -> np.ndarray:
    """Elements of the list in every row of `column`; -1 where there is none. Shape: (rows,), int64."""
    lists = tokens.select_columns([column]).with_format("arrow")[:][column]
    return compute.fill_null(compute.list_value_length(lists), -1).to_numpy().astype(np.int64)


def prompt_numbers(tokens: Dataset) -> np.ndarray:
    """A number for the prompt of every row; rows of the same prompt have the same one. Shape: (rows,), int64."""
    column = tokens.select_columns(["prompt_ids"]).with_format("arrow")[:]["prompt_ids"].combine_chunks()
    ids, ends = column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())
    numbers: dict[bytes, int] = {}
    prompts = (ids[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])


def scored_lengths(tokens: Dataset, side: str) -> np.ndarray:
    """Scored tokens of the `chosen` or `rejected` completion of every row. Shape: (rows,), int64."""
    counts = lengths(tokens, f"{side}_ids").copy()
    (masked,) = (lengths(tokens, f"{side}_scored") >= 0).nonzero()
    if len(masked):
        counts[masked] = [sum(mask) for mask in tokens.select(masked)[f"{side}_scored"]]
    return counts
