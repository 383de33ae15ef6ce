"""Attention for a stream on CUDA: PyTorch's variable-length flash kernels, or FlexAttention."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from lightning_dpo.batch import Segments

# From PyTorch 2.13 on.
_GROUPED_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters


class _Plan(NamedTuple):
    """Arguments of `varlen_attn`: for each stretch, its keys and the offsets of its queries and keys."""

    keys: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_queries: int
    longest_keys: int


def _plan(segments: Segments, device: torch.device) -> _Plan:
    keys: list[int] = []
    # Each stretch gets copies of its prompt's keys in front of its own: flash kernels support only contiguous keys.
    lengths, start, opening = [], 0, 0
    for length, prefix in segments.stretches:
        # A stretch without a prefix starts with a prompt, which the following stretches refer to.
        opening = opening if prefix else start
        keys += [*range(opening, opening + prefix), *range(start, start + length)]
        lengths.append((length, prefix + length))
        start += length
    queries, seen = zip(*lengths, strict=True)

    def starts(part: Sequence[int]) -> Tensor:
        return torch.tensor([0, *accumulate(part)], dtype=torch.int32, device=device)

    return _Plan(torch.tensor(keys, device=device), starts(queries), starts(seen), max(queries), max(seen))


def varlen_can(query: Tensor, value: Tensor, softcap: float | None) -> bool:
    """Whether the flash kernels of this version of PyTorch support these inputs.

    They need half precision, compute capability 8 or later, no soft-cap, and the same head size for keys and values, a
    multiple of 8 up to 256. Fewer heads of keys than of queries need PyTorch 2.13.
    """
    half = _compute_dtype(query) in (torch.bfloat16, torch.float16)
    size = query.shape[-1]
    recent = torch.cuda.get_device_capability(query.device) >= (8, 0)
    if query.shape[1] != value.shape[1] and not _GROUPED_HEADS:
        return False
    return half and recent and softcap is None and size == value.shape[-1] <= 256 and size % 8 == 0


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to compute in. Autocast casts the inputs of sdpa, but not those of these kernels."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def by_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One call of the flash kernels for the whole stream. The causal mask is aligned to the last key of a stretch."""
    plan = segments.made(("plan", query.device), lambda: _plan(segments, query.device))
    query, key, value = (tensor[0].transpose(0, 1).to(_compute_dtype(query)) for tensor in (query, key, value))
    # Grouped-query attention: fewer heads of keys than of queries.
    grouped: dict[str, Any] = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    attended = varlen_attn(
        query.contiguous(),
        key[plan.keys],
        value[plan.keys],
        plan.query_starts,
        plan.key_starts,
        plan.longest_queries,
        plan.longest_keys,
        scale=scaling,
        # (-1, 0) means causal, (w, 0) causal with w tokens to the left. transformers counts the token itself, so w − 1.
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return cast(Tensor, attended)[None]  # a tuple only if the log-sum-exp is requested


def _block_mask(segments: Segments, window: int | None, device: torch.device) -> BlockMask:
    rows, opening = [], 0
    for index, (length, shared) in enumerate(segments.stretches):
        opening = opening if shared else index
        rows += [(index, opening, shared, shared + offset) for offset in range(length)]
    stretch, group, prefix, position = torch.tensor(rows, device=device).unbind(1)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # A token sees the prompt of its group (the first `prefix` tokens of the opening stretch) and its own stretch.
        of_prompt = (stretch[key] == group[query]) & (position[key] < prefix[query])
        behind = position[query] - position[key]
        near = (behind >= 0) if window is None else (behind >= 0) & (behind < window)
        return ((stretch[key] == stretch[query]) | of_prompt) & near

    # Without compilation, it would create a tensor with an element per query and key.
    make = torch.compile(create_block_mask) if device.type == "cuda" else create_block_mask
    return make(seen, None, None, len(rows), len(rows), device=device)


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled() -> Callable[..., Tensor]:
    # Lengths become dynamic with the second shape. Scale and soft-cap are compiled as constants.
    return torch.compile(flex_attention)


def by_flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """FlexAttention, for inputs that the flash kernels do not support."""
    mask = segments.made(("blocks", window, query.device), lambda: _block_mask(segments, window, query.device))
    attend = cast(Callable[..., Tensor], _compiled() if query.is_cuda else flex_attention)
    query, key, value = (tensor.to(_compute_dtype(query)) for tensor in (query, key, value))
    gqa = query.shape[1] != key.shape[1]
    attended = attend(query, key, value, softcap and _capped(softcap), mask, scaling, gqa)
    return attended.transpose(1, 2).contiguous()
