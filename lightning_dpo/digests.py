"""Digests (sha256) of weights, tokenizer and training pairs, which a resume compares: names may stay the same."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

_SHOWN = 12  # hexadecimal digits: 48 bits tell any two data sets or models apart
_COLUMNS = (
    "prompt_ids", "chosen_ids", "chosen_scored", "rejected_ids", "rejected_scored", "weight", "offset", "source",
)  # fmt: skip


def weights_digest(model: nn.Module) -> str:
    """Of all parameters and buffers: names, dtypes, shapes and bytes. About a second per GB and core."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with ThreadPoolExecutor() as threads:  # hashlib releases the GIL
        digests = threads.map(_tensor_digest, tensors.values())
    parts = [f"{name} {found}" for name, found in zip(tensors, digests, strict=True)]
    return _of(part.encode() for part in sorted(parts))


def pairs_digest(tokens: Dataset) -> str:
    """Of the token ids of all pairs, in their order: which of them are scored, weights and offsets included."""
    columns = tokens.select_columns([name for name in _COLUMNS if name in tokens.column_names])
    batches = columns.with_format("arrow").iter(batch_size=1000)
    return _of(part for batch in batches for name in batch.column_names for part in _column(batch[name]))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what decides how text and messages become ids: vocabulary, rules, special tokens, chat template."""
    return _of(fact.encode() for fact in tokenizer_facts(tokenizer))


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    """The state of a fast tokenizer, padding and truncation aside, which every call sets; of others the vocabulary."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        yield json.dumps(state | {"padding": None, "truncation": None})
    else:
        yield json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    yield json.dumps([tokenizer.special_tokens_map, tokenizer.chat_template], sort_keys=True, default=str)


def _tensor_digest(tensor: Tensor) -> str:
    values = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    return _of([f"{tensor.dtype} {tuple(tensor.shape)}".encode(), values.numpy().data], digits=64)


def _column(column: pa.ChunkedArray) -> Iterable[bytes]:
    """Bytes that do not depend on how Arrow has cut the column."""
    array = column.combine_chunks()
    if not pa.types.is_list(array.type):
        yield array.to_numpy(zero_copy_only=False).tobytes()
        return
    lengths = pa.compute.fill_null(pa.compute.list_value_length(array), -1)
    yield lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes()
    yield array.flatten().to_numpy(zero_copy_only=False).tobytes()


def _of(parts: Iterable[bytes | memoryview], digits: int = _SHOWN) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} ".encode())
        digest.update(part)
    return digest.hexdigest()[:digits]
