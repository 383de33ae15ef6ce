"""What a training step will need of the device's memory, told before the step is tried."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lightning_dpo.logps.fusion import can_fuse
from lightning_dpo.logps.lm_head import CHUNK
from lightning_dpo.models.reference import Reference

_GB = 1e9
# Bytes of activations per token, hidden unit and layer that a backward pass keeps, in units of one number, without the
# attention matrix, which sdpa does not keep: 34 of 2 bytes, Table 2 of https://arxiv.org/abs/2205.05198.
_KEPT = 17


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, for the largest micro-batch of the data; `activations` is rough, the rest is counted.

    Attributes:
        weights: The policy's.
        gradients: Of what is trained.
        optimizer: Its state.
        reference: A reference with weights of its own.
        logits: Of a chunk of scored positions, in the compute precision, in fp32, and the latter's gradient; of all
            where the head cannot be run by chunks.
        activations: What the backward pass needs of the forward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    logits: int
    activations: int

    @property
    def certain(self) -> int:
        """What is needed whatever a batch holds."""
        return self.weights + self.gradients + self.optimizer + self.reference

    @property
    def total(self) -> int:
        """All of it."""
        return self.certain + self.logits + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "reference", "logits", "activations")
        return ", ".join(f"{name} {gigabytes(getattr(self, name))}" for name in parts)

    def advice(self, batch_size: int, checkpointing: bool, adapter: bool) -> str:
        """The three settings that would save most, the largest saving first."""
        per_batch = self.logits + self.activations
        savings = {
            "adapter=lora (no gradients, optimizer state or reference for the model)": 0
            if adapter
            else self.gradients + self.optimizer + self.reference,
            "model.gradient_checkpointing=true": 0 if checkpointing else self.activations * 0.8,
            f"data.batch_size={max(1, batch_size // 2)} (changes no result)": per_batch / 2 if batch_size > 1 else 0,
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
    """Count what there is, and estimate what a step will add.

    Args:
        policy: The policy, its trainable parameters marked.
        reference: Its reference.
        make_optimizer: Makes the optimizer; tried on a small matrix.
        tokens: Of the largest micro-batch, pads included.
        scored: Scored positions in it.
        itemsize: Bytes of a number in a forward pass.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    config = policy.config.get_text_config()
    per_layer = tokens * config.hidden_size * itemsize
    layers = config.num_hidden_layers
    checkpointing = checkpoints_activations(policy)
    return MemoryEstimate(
        weights=_size(policy.parameters()),
        gradients=_size(trained),
        optimizer=int(_states(make_optimizer) * _size(trained)),
        reference=_size(reference.model.parameters()) if reference and reference.model else 0,
        logits=(min(scored, CHUNK) if can_fuse(policy) else scored) * config.vocab_size * (itemsize + 8),
        activations=per_layer * (layers + _KEPT if checkpointing else layers * _KEPT),
    )


def checkpoints_activations(policy: PreTrainedModel) -> bool:
    """Whether activations are computed again in the backward pass. transformers' own property warns of its renaming."""
    return any(getattr(module, "gradient_checkpointing", False) for module in policy.modules())


def device_memory(device: torch.device) -> int:
    """Bytes that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gigabytes(size: float) -> str:
    """A number of bytes, for people.

    >>> gigabytes(2_500_000_000), gigabytes(40_000)
    ('2.5 GB', '0.0 GB')
    """
    return f"{size / _GB:.1f} GB"


def _size(tensors: Iterable[Tensor]) -> int:
    """What this device holds of them."""
    here = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in here)


def _states(make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> float:
    """Numbers that the optimizer keeps for each number it trains."""
    # A matrix: some keep the sums of rows and columns alone.
    weights = nn.Parameter(torch.zeros(64, 64))
    weights.grad = torch.zeros(64, 64)
    optimizer = make_optimizer([weights])
    optimizer.step()
    kept = chain.from_iterable(state.values() for state in optimizer.state.values())
    return sum(value.numel() for value in kept if isinstance(value, Tensor) and value.numel() > 1) / weights.numel()
