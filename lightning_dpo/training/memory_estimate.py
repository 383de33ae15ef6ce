"""An estimate of the memory that a training step needs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import psutil
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lightning_dpo.logps.fusion import can_fuse
from lightning_dpo.logps.lm_head import positions_at_once
from lightning_dpo.models.reference import Reference

_GB = 1e9
# Numbers per token, hidden unit and layer that are kept for the backward pass, without the attention matrix, which sdpa
# does not keep: 34 bytes, so 17 numbers of 2 bytes, Table 2 of https://arxiv.org/abs/2205.05198.
_KEPT = 17


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device for the largest micro-batch of the data. `activations` is rough; the rest is counted.

    Attributes:
        weights: Weights of the policy.
        gradients: Gradients of the trained weights.
        optimizer: Optimizer state.
        reference: Weights of the reference, if it has its own.
        logits: Logits of a chunk of scored positions in the compute precision and in fp32, and the fp32 gradient. If
            the head cannot be computed in chunks, of all scored positions.
        activations: Activations that are kept for the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    logits: int
    activations: int

    @property
    def certain(self) -> int:
        """Bytes that do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer + self.reference

    @property
    def total(self) -> int:
        """Sum of all parts, in bytes."""
        return self.certain + self.logits + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "reference", "logits", "activations")
        return ", ".join(f"{name} {gigabytes(size)}" for name in parts if (size := getattr(self, name)))

    def advice(self, batch_size: int, checkpointing: bool, adapter: bool) -> str:
        """The three settings that would save the most memory, the largest saving first."""
        per_batch = self.logits + self.activations
        savings = {
            "adapter=lora (no gradients, optimizer state or reference for the model)": 0
            if adapter
            else self.gradients + self.optimizer + self.reference,
            "model.gradient_checkpointing=true": 0 if checkpointing else self.activations * 0.8,
            f"data.batch_size={max(1, batch_size // 2)} (does not change results)": per_batch / 2
            if batch_size > 1
            else 0,
            # -1 puts it after data.batch_size, which saves the same and does not change results.
            "a smaller data.max_length": per_batch / 2 - 1,
            "optimizer=rmsprop": self.optimizer / 2,
        }
        best = sorted(savings, key=lambda name: -savings[name])[:3]
        return "; ".join(best)


def estimate(
    policy: PreTrainedModel,
    reference: Reference | None,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    tokens: int,
    scored: int,
    itemsize: int,
) -> MemoryEstimate:
    """Estimate the memory of a training step.

    Args:
        policy: The policy, with `requires_grad` set on its trainable parameters.
        reference: The reference.
        make_optimizer: Creates the optimizer; called with a small matrix to count its state.
        tokens: Tokens of the largest micro-batch, padding included.
        scored: Scored positions of that micro-batch.
        itemsize: Bytes per number in a forward pass.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    config = policy.config.get_text_config()
    per_layer = tokens * config.hidden_size * itemsize
    layers = config.num_hidden_layers
    checkpointing = checkpoints_activations(policy)
    at_once = min(scored, positions_at_once(config.vocab_size)) if can_fuse(policy) else scored
    return MemoryEstimate(
        weights=_size(policy.parameters()),
        gradients=_size(trained),
        optimizer=int(optimizer_numbers(make_optimizer) * _size(trained)),
        reference=_size(reference.model.parameters()) if reference and reference.model and reference.on_device else 0,
        logits=at_once * config.vocab_size * (itemsize + 8),
        activations=per_layer * (layers + _KEPT if checkpointing else layers * _KEPT),
    )


def checkpoints_activations(policy: PreTrainedModel) -> bool:
    """Whether activations are recomputed in the backward pass. transformers' own property is deprecated."""
    return any(getattr(module, "gradient_checkpointing", False) for module in policy.modules())


def device_memory(device: torch.device) -> int:
    """Total memory of the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total


def gigabytes(size: float) -> str:
    """A number of bytes as text, in GB or MB.

    >>> gigabytes(2_500_000_000), gigabytes(1_040_000)
    ('2.5 GB', '1.0 MB')
    """
    return f"{size / _GB:.1f} GB" if size >= _GB / 10 else f"{size / 1e6:.1f} MB"


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors on this device; of a sharded tensor, its shard."""
    here = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in here)


def optimizer_numbers(make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> float:
    """Bytes that the optimizer stores per byte of trained weights. Two, as for Adam, if it cannot be tested."""
    # A matrix, because optimizers such as Adafactor store only sums over rows and columns.
    weights = nn.Parameter(torch.zeros(64, 64))
    weights.grad = torch.zeros(64, 64)
    try:
        optimizer = make_optimizer([weights])
        optimizer.step()
    except Exception:  # LBFGS needs a closure, and SparseAdam sparse gradients
        return 2.0
    kept = chain.from_iterable(state.values() for state in optimizer.state.values())
    tensors = [value for value in kept if isinstance(value, Tensor) and value.numel() > 1]
    return _size(tensors) / _size([weights])
