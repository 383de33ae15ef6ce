"""Attention for a stream that contains each prompt once, registered with transformers. No model is patched.

With `segments`, each stretch attends to itself and to its prefix. Without, as in generation, it is plain sdpa.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lightning_dpo.batch import Segments, Stretch
from lightning_dpo.logps.forward import ATTENTION, is_streaming
from lightning_dpo.shared_prefix.attention_cuda import by_flex, by_varlen, varlen_can


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,  # already applied to query and key by rotary embeddings
    use_cache: bool | None = None,
    output_router_logits: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within the stretches of `segments` and to their prefixes, or sdpa without `segments`.

    Args:
        module: The attention layer.
        query: Shape: (1, heads, tokens, dim).
        key: Shape: (1, heads of keys, tokens, dim).
        value: Shape: (1, heads of keys, tokens, dim).
        attention_mask: Read only without `segments`.
        segments: The stretches of the stream.
        scaling: Factor of query · key; None: 1 / sqrt(dim).
        sliding_window: Number of positions that a token attends to, itself included; None: all.
        softcap: c of c · tanh(score / c), applied to scores; None: no soft-cap.
        dropout: Must be 0.
        position_ids: Not read.
        use_cache: Not read.
        output_router_logits: Not read.
        others: Must be None, because an unknown argument may change the result.

    Returns:
        The output, shape (1, tokens, heads, dim), and None instead of the attention weights, which are not computed.

    Raises:
        ValueError: The layer passes an argument that is not supported, or does not pass the segments.
    """
    if segments is None:
        if is_streaming():
            raise ValueError("its attention layers do not receive the arguments of the model's forward pass")
        if softcap is not None:
            return _soft_capped(query, key, value, attention_mask, scaling, softcap), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    # An argument that this function ignores would silently change the model, so it must be unset.
    unknown = sorted(name for name, given in others.items() if given is not None)
    if unknown or dropout:
        raise ValueError(
            f"its attention uses {', '.join(unknown) or 'dropout'}, which the shared layout does not support"
        )
    # On CUDA, one kernel call for the whole stream. On other devices, one call per shape of stretches.
    if query.is_cuda:
        attend = by_varlen if varlen_can(query, value, softcap) else by_flex
        return attend(query, key, value, segments, scaling, sliding_window, softcap), None
    return _by_shape(query, key, value, segments, scaling, sliding_window, softcap), None


# Without this, transformers would create a causal mask of (tokens, tokens) that ignores the stretches.
def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    # Positions restart with every prompt, and transformers would interpret that as packed sequences.
    return None if is_streaming() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, _mask)


class _Run(NamedTuple):
    """Consecutive stretches of one shape: a prompt with its first completion, or further completions of a prompt."""

    shape: Stretch
    size: int
    """Number of stretches."""
    opening: int
    """Index of the run that starts with the prompt."""


def _runs(stretches: Sequence[Stretch]) -> tuple[list[_Run], dict[Stretch, list[int]]]:
    """The runs of a stream in order, and the indices of the runs of each shape."""
    runs: list[_Run] = []
    shapes: dict[Stretch, list[int]] = {}
    for stretch in stretches:
        if stretch.prefix and runs[-1].shape == stretch:
            runs[-1] = runs[-1]._replace(size=runs[-1].size + 1)
            continue
        shapes.setdefault(stretch, []).append(len(runs))
        runs.append(_Run(stretch, 1, runs[-1].opening if stretch.prefix else len(runs)))
    return runs, shapes


def _by_shape(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One call of sdpa for all stretches with the same length and prefix, which are the rows of a batch."""
    runs, shapes = segments.made("runs", lambda: _runs(segments.stretches))
    # `split` and `cat`: the gradient of an index or a slice would be a tensor of the whole stream's size.
    lengths = [run.shape.length * run.size for run in runs]
    of_query, of_key, of_value = (tensor.split(lengths, 2) for tensor in (query, key, value))
    outputs: list[Tensor] = [query] * len(runs)
    for shape, members in shapes.items():
        queries, keys, values = (
            _together([_rows(parts[index], shape.length) for index in members])
            for parts in (of_query, of_key, of_value)
        )
        if shape.prefix:
            prefixes = (
                _together([_repeated(parts[runs[index].opening], shape.prefix, runs[index].size) for index in members])
                for parts in (of_key, of_value)
            )
            keys, values = (torch.cat(both, 2) for both in zip(prefixes, (keys, values), strict=True))
        bias = _bias(segments, queries, keys.shape[2], window)
        if softcap is None:
            attended = _sdpa(queries, keys, values, bias, scaling)
        else:
            attended = _soft_capped(queries, keys, values, bias, scaling, softcap)
        for index, output in zip(members, attended.split([runs[index].size for index in members]), strict=True):
            outputs[index] = output.flatten(0, 1)
    return torch.cat(outputs)[None]


def _together(rows: list[Tensor]) -> Tensor:
    """The rows of several runs, without a copy if there is one."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _rows(run: Tensor, length: int) -> Tensor:
    """The stretches of a run, shape (1, heads, size · length, dim), as rows: (size, heads, length, dim)."""
    return run[0].unflatten(1, (-1, length)).transpose(0, 1)


def _repeated(opening: Tensor, prefix: int, times: int) -> Tensor:
    """The prompt, for each stretch of a run. Shape: (times, heads, prefix, dim)."""
    return opening[:, :, :prefix].expand(times, -1, -1, -1)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None) -> Tensor:
    gqa = query.shape[1] != key.shape[1]
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=bias is None, scale=scaling, enable_gqa=gqa
    )
    return attended.transpose(1, 2)


def _bias(segments: Segments, queries: Tensor, keys: int, window: int | None) -> Tensor | None:
    """0 where the last of `keys` tokens are to see one, else minus infinity; None where causality is all there is."""
    length, dtype, device = queries.shape[2], queries.dtype, queries.device
    if length == keys and (window is None or keys <= window):
        return None

    def make() -> Tensor:
        behind = torch.arange(keys - length, keys, device=device)[:, None] - torch.arange(keys, device=device)
        seen = (behind >= 0) & (behind < (window or keys))
        return torch.zeros(length, keys, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)

    return segments.made(("bias", length, keys, window, dtype, device), make)


def _soft_capped(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    """Attention with soft-capped scores, which sdpa does not support. Shape: (rows, tokens, heads, dim)."""
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if bias is None:
        length, keys = scores.shape[2:]
        bias = torch.ones(length, keys, dtype=torch.bool, device=scores.device).tril(keys - length)
    # The smallest finite number: with -inf, the softmax of a padding row that attends to nothing would be NaN.
    least = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~bias, least) if bias.dtype == torch.bool else scores + bias.clamp(min=least)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous()
