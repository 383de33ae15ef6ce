"""Digests (sha256) of tokenizer, completions and training pairs, by which resumed runs and caches recognize them."""

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.tokens.encoding import Ids, Mask
from lightning_dpo.models.digests import digest_of

_COLUMNS = (
    "prompt_ids", "chosen_ids", "chosen_scored", "rejected_ids", "rejected_scored", "weight", "offset",
    "label_noise", "source",
)  # fmt: skip


def completion_key(prompt_ids: Ids, ids: Ids, scored: Mask) -> bytes:
    """Digest of a completion, its prompt, and which of its tokens are scored: 16 bytes.

    Everything that the log-probs of its tokens under a given model depend on.
    """
    mask = np.ones(len(ids), bool) if scored is None else np.array(scored, bool)
    arrays = (np.array(prompt_ids, np.int32), np.array(ids, np.int32), mask)
    return bytes.fromhex(digest_of([array.tobytes() for array in arrays], digits=32))


def pairs_digest(tokens: Dataset) -> str:
    """Digest of all pairs in order: token ids, scored tokens, numeric columns and sources."""
    names = [name for name in _COLUMNS if name in tokens.column_names]
    if "label_noise" in names and not any(tokens["label_noise"][:]):
        names.remove("label_noise")  # so that checkpoints from before this column can be resumed
    columns = tokens.select_columns(names)
    batches = columns.with_format("arrow").iter(batch_size=1000)
    return digest_of(part for batch in batches for name in batch.column_names for part in _column(batch[name]))


def tokenizer_digests(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Digests of the vocabulary and its rules, of the special tokens, and of the chat template."""
    return {f"{name} (sha256)": digest_of([fact.encode()]) for name, fact in tokenizer_facts(tokenizer).items()}


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The state of a fast tokenizer without padding and truncation, which calls set; of others, the vocabulary."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = json.dumps(state | {"padding": None, "truncation": None})
    else:
        rules = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    return {
        "tokenizer": rules,
        "special tokens of the tokenizer": json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
        "chat template": json.dumps(tokenizer.chat_template, sort_keys=True, default=str),
    }


def _column(column: pa.ChunkedArray) -> Iterable[bytes]:
    """The bytes of a column, independent of its chunks."""
    array = column.combine_chunks()
    if not pa.types.is_list(array.type):
        yield array.to_numpy(zero_copy_only=False).tobytes()
        return
    # Lengths are part of the digest, because different lists can have the same flattened values.
    lengths = compute.fill_null(compute.list_value_length(array), -1)
    yield lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes()
    yield array.flatten().to_numpy(zero_copy_only=False).tobytes()
