"""FLOPs of the matrix products of a step, and the FLOPs per second that a device can reach."""

import time
import warnings

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import nn
from transformers import PreTrainedModel

from lightning_dpo.batch import PreferenceBatch

_SIZE, _CPU_SIZE = 4096, 1024
_IN_A_ROW = 4
_SECONDS = 0.3


class MatrixWork:
    """FLOPs of a model's matrix products.

    Two per weight and token. The LM head counts only scored positions, experts only the tokens routed to them, and
    embeddings nothing. Attention adds four per head dimension and per pair of a query and a key that it attends to; a
    sliding window is not subtracted. Recomputation, by activation checkpointing or for log-probs in chunks, is not
    counted, as usual for model FLOPs utilization (Appendix B of https://arxiv.org/abs/2204.02311).

    Args:
        model: The model, with `requires_grad` set on its trainable parameters.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._all, self._trained = _weights(model, only_trained=False), _weights(model, only_trained=True)
        config = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0)  # none in a state-space model
        size = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
        self._per_key = 4 * heads * size * config.num_hidden_layers

    def forward(self, batch: PreferenceBatch) -> float:
        """FLOPs of a forward pass."""
        return _linear(self._all, batch) + self._per_key * attended(batch)

    def backward(self, batch: PreferenceBatch) -> float:
        """FLOPs of a backward pass: as many as forward for the inputs' gradients, plus those of trained weights."""
        return self.forward(batch) + _linear(self._trained, batch) + self._per_key * attended(batch)


def attended(batch: PreferenceBatch) -> int:
    """Number of pairs of a query and a key that it attends to, in one head of one layer."""
    if batch.segments is None:
        rows, length = batch.input_ids.shape
        return rows * length * (length + 1) // 2
    return sum(length * prefix + length * (length + 1) // 2 for length, prefix in batch.segments.stretches)


def peak_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOPs per second of `device` in `dtype` according to its datasheet, by Lightning's table; None if unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown device is not an error: the rate is measured instead
        try:
            return get_available_flops(device, dtype)
        except (KeyError, RuntimeError):  # the table lacks the dtype, or the name is parsed wrongly
            return None


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of large square matrix products in `dtype`: the best of several measurements."""
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


def _weights(model: PreTrainedModel, only_trained: bool) -> tuple[float, float]:
    """Number of weights that multiply every token, and of those of the LM head."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = {id(weight) for weight in model.get_output_embeddings().parameters()}
    config = model.config.get_text_config()
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    share = (getattr(config, "num_experts_per_tok", None) or 1) / experts
    body = of_head = 0.0
    for weight in model.parameters():
        if weight.ndim < 2 or (only_trained and not weight.requires_grad):
            continue
        if id(weight) in head:
            of_head += weight.numel()
        elif id(weight) not in tables:
            body += weight.numel() * (share if weight.ndim == 3 else 1)
    return body, of_head
