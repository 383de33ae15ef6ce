"""Numbers of tokens of pairs and ids of prompts, computed in Arrow without converting tokens to Python numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from datasets import Dataset, concatenate_datasets

_PREFIX = "lengths_"


@dataclass(frozen=True)
class PairLengths:
    """Numbers of tokens of pairs, and which of the pairs have the same prompt. Shape of all: (pairs,), int64."""

    prompt: np.ndarray
    """Tokens of the prompt."""
    chosen: np.ndarray
    """Tokens of the chosen completion."""
    rejected: np.ndarray
    """Tokens of the rejected completion."""
    chosen_scored: np.ndarray
    """Scored tokens of the chosen completion."""
    rejected_scored: np.ndarray
    """Scored tokens of the rejected completion."""
    prompt_id: np.ndarray
    """A number that is equal for pairs with the same prompt."""

    @classmethod
    def of(cls, tokens: Dataset) -> "PairLengths":
        """The lengths of tokenized pairs: read from the columns that `with_numbers` adds, otherwise computed."""
        names = {f"{_PREFIX}{field.name}": field.name for field in fields(cls)}
        if not set(names) <= set(tokens.column_names):
            return _computed(tokens)
        # One read of all columns: if rows were selected, datasets gathers them one by one.
        table = tokens.select_columns(list(names)).with_format("arrow")[:]
        return cls(**{name: table[column].to_numpy() for column, name in names.items()})

    def answers(self, chosen_only: bool) -> list[np.ndarray]:
        """Tokens of the completions of each pair, by side."""
        return [self.chosen] if chosen_only else [self.chosen, self.rejected]

    def scored(self, chosen_only: bool) -> np.ndarray:
        """Scored tokens of each pair."""
        return self.chosen_scored if chosen_only else self.chosen_scored + self.rejected_scored


def with_numbers(tokens: Dataset, lengths: PairLengths, source: Sequence[int]) -> Dataset:
    """Tokenized pairs, with their lengths and the indices of their sources as further columns."""
    numbers = {f"{_PREFIX}{name}": values for name, values in asdict(lengths).items()}
    # Not `add_column`, which takes seconds to hash the values.
    return concatenate_datasets([tokens, Dataset(pa.table({"source": source, **numbers}))], axis=1)


def _computed(tokens: Dataset) -> PairLengths:
    names = ["prompt_ids", "chosen_ids", "rejected_ids", "chosen_scored", "rejected_scored"]
    table = tokens.select_columns(names).with_format("arrow")[:]
    prompts, chosen, rejected, chosen_masks, rejected_masks = (table[name] for name in names)
    of_chosen, of_rejected = _lengths(chosen), _lengths(rejected)
    return PairLengths(
        prompt=_lengths(prompts),
        chosen=of_chosen,
        rejected=of_rejected,
        chosen_scored=_scored(of_chosen, chosen_masks),
        rejected_scored=_scored(of_rejected, rejected_masks),
        prompt_id=_prompt_ids(prompts),
    )


def _lengths(lists: pa.ChunkedArray | pa.ListArray) -> np.ndarray:
    """Length of each list; 0 for null."""
    return compute.fill_null(compute.list_value_length(lists), 0).to_numpy().astype(np.int64)


def _scored(lengths: np.ndarray, masks: pa.ChunkedArray) -> np.ndarray:
    """Scored tokens of completions with these lengths: all, unless a completion has a mask."""
    if masks.null_count == len(masks):
        return lengths
    # Chunk by chunk, as below: joined, they would be a copy of all of them.
    kept = np.concatenate([_sums(chunk) for chunk in masks.chunks])
    return np.where(masks.is_null().to_numpy(), lengths, kept)


def _sums(masks: pa.ListArray) -> np.ndarray:
    """Number of true values in each list; 0 for null."""
    lengths = _lengths(masks)
    ends = np.cumsum(lengths)
    flags = masks.flatten().to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
    return before[ends] - before[ends - lengths]


def _prompt_ids(prompts: pa.ChunkedArray) -> np.ndarray:
    numbers: dict[bytes, int] = {}
    found: list[int] = []
    for chunk in prompts.chunks:
        ids, lengths = chunk.flatten().to_numpy(), _lengths(chunk)
        ends = np.cumsum(lengths)
        # Bytes of the token ids are hashable, and equal only for equal prompts.
        keys = (ids[start:end].tobytes() for start, end in zip(ends - lengths, ends, strict=True))
        found += [numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(found, np.int64)
