"""Digests (sha256) of weights. A resumed run compares them, because different models can have the same name."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

_SHOWN = 12  # hexadecimal digits: 48 bits are enough to distinguish datasets or models


def weights_digest(model: nn.Module) -> str:
    """Digest of all parameters and buffers: names, dtypes, shapes and bytes. About a second per GB and core."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with ThreadPoolExecutor() as threads:  # hashlib releases the GIL
        digests = threads.map(_tensor_digest, tensors.values())
    parts = [f"{name} {found}" for name, found in zip(tensors, digests, strict=True)]
    # Sorted, because the order of parameters may depend on the version of transformers.
    return digest_of(part.encode() for part in sorted(parts))


def _tensor_digest(tensor: Tensor) -> str:
    # As bytes, because numpy has no bfloat16.
    values = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    return digest_of([f"{tensor.dtype} {tuple(tensor.shape)}".encode(), values.numpy().data], digits=64)


def digest_of(parts: Iterable[bytes | memoryview], digits: int = _SHOWN) -> str:
    """The first `digits` hexadecimal digits of the sha256 of `parts` and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} ".encode())
        digest.update(part)
    return digest.hexdigest()[:digits]
