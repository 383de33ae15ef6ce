"""Arithmetic of a step: what its matrix products come to, and how fast this machine multiplies matrices."""

import time

import torch
from torch import nn
from transformers import PreTrainedModel

from lightning_dpo.batch import PreferenceBatch

_SIZE, _CPU_SIZE = 4096, 1024
_IN_A_ROW = 4
_SECONDS = 0.3


class MatrixWork:
    """Floating-point operations of a model's matrix products: what its passes need, however they are computed.

    Two for each weight and token: of the LM head for scored positions, of experts for those that a token is sent to, of
    embeddings none. And four for each dimension of the heads and each key that a query attends to; a sliding window is
    not taken off. What activation checkpointing, and log-probs by chunks, compute again is not work that a step needs.

    Args:
        model: The model, its trainable parameters marked.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._all, self._trained = _weights(model, trained_alone=False), _weights(model, trained_alone=True)
        config = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0)  # none in a state-space model
        size = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
        self._per_key = 4 * heads * size * config.num_hidden_layers

    def forward(self, batch: PreferenceBatch) -> float:
        """Of a forward pass."""
        return _linear(self._all, batch) + self._per_key * attended(batch)

    def backward(self, batch: PreferenceBatch) -> float:
        """Of a backward pass: as much for what comes in, and for each weight that is trained."""
        return self.forward(batch) + _linear(self._trained, batch) + self._per_key * attended(batch)


def attended(batch: PreferenceBatch) -> int:
    """Pairs of a query and a key that it attends to, in one head of one layer."""
    if batch.segments is None:
        rows, length = batch.input_ids.shape
        return rows * length * (length + 1) // 2
    return sum(length * prefix + length * (length + 1) // 2 for length, prefix in batch.segments.stretches)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of square matrix products in `dtype`, the best of several: what a step could reach."""
    size = _CPU_SIZE if device.type == "cpu" else _SIZE
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best, spent = float("inf"), 0.0
    while spent < _SECONDS:
        start = _now(device)
        for _ in range(_IN_A_ROW):
            left @ right
        seconds = _now(device) - start
        best, spent = min(best, seconds), spent + seconds
    return _IN_A_ROW * 2 * size**3 / best


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _linear(weights: tuple[float, float], batch: PreferenceBatch) -> float:
    body, head = weights
    return 2 * (body * batch.input_ids.numel() + head * len(batch.target_ids))


def _weights(model: PreTrainedModel, trained_alone: bool) -> tuple[float, float]:
    """Weights that every token is multiplied by, and those of the LM head."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = {id(weight) for weight in model.get_output_embeddings().parameters()}
    config = model.config.get_text_config()
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    share = (getattr(config, "num_experts_per_tok", None) or 1) / experts
    body = of_head = 0.0
    for weight in model.parameters():
        if weight.ndim < 2 or (trained_alone and not weight.requires_grad):
            continue
        if id(weight) in head:
            of_head += weight.numel()
        elif id(weight) not in tables:
            body += weight.numel() * (share if weight.ndim == 3 else 1)
    return body, of_head
