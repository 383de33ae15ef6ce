"""Digests (sha256) of weights, which a resume compares: different models can have the same name."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

_SHOWN = 12  # hexadecimal digits: 48 bits tell any two data sets or models apart


def weights_digest(model: nn.Module) -> str:
    """Of all parameters and buffers: names, dtypes, shapes and bytes. About a second per GB and core."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with ThreadPoolExecutor() as threads:  # hashlib releases the GIL
        digests = threads.map(_tensor_digest, tensors.values())
    parts = [f"{name} {found}" for name, found in zip(tensors, digests, strict=True)]
    return digest_of(part.encode() for part in sorted(parts))


def _tensor_digest(tensor: Tensor) -> str:
    values = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    return digest_of([f"{tensor.dtype} {tuple(tensor.shape)}".encode(), values.numpy().data], digits=64)


def digest_of(parts: Iterable[bytes | memoryview], digits: int = _SHOWN) -> str:
    """sha256 of `parts` and their lengths, its first `digits` hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} ".encode())
        digest.update(part)
    return digest.hexdigest()[:digits]
