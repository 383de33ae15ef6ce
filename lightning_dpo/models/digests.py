"""Digests (sha256) of weights and files, which identify them, because different models can have the same name."""

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import transformers
from huggingface_hub import constants
from peft import PeftModel
from torch import Tensor, nn

from lightning_dpo.run_folder import write_atomically

_SHOWN = 12  # hexadecimal digits: 48 bits are enough to distinguish datasets or models
_BLOCK = 1 << 16
_OF_ADAPTER = re.compile(r"\.(lora_\w+|modules_to_save)\.")


# Layers of an adapter contain the layer of the base model; those of fused experts twice.
_WRAPPED = re.compile(r"(\.base_layer|\.original_module)+\.")


def unwrapped(name: str) -> str:
    """The name that a parameter of the base model has without an adapter.

    >>> unwrapped("layers.0.experts.base_layer.base_layer.up_proj")
    'layers.0.experts.up_proj'
    """
    return _WRAPPED.sub(".", name)


def weights_digest(model: nn.Module) -> str:
    """Digest of all parameters and buffers: names, dtypes, shapes and bytes. About a second per GB and core.

    Those of an adapter are left out, and the base model below it has the digest that it has without the adapter.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("base_model.model.") if isinstance(model, PeftModel) else name
        name = unwrapped(name)
        if not _OF_ADAPTER.search(name):
            tensors[name] = tensor.detach()
    with ThreadPoolExecutor() as threads:  # hashlib releases the GIL
        digests = threads.map(tensor_digest, tensors.values())
    parts = [f"{name} {found}" for name, found in zip(tensors, digests, strict=True)]
    # Sorted, because the order of parameters may depend on the version of transformers.
    return digest_of(part.encode() for part in sorted(parts))


def tensor_digest(tensor: Tensor) -> str:
    """Digest of one tensor: dtype, shape and bytes."""
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


def file_digest(path: Path) -> str:
    """Digest of the content of a file. It is computed once, and again if the file has changed."""

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_SHOWN]

    return remembered([path], compute)


def remembered(files: Iterable[Path], compute: Callable[[], str], of: str = "content") -> str:
    """The result of `compute`, stored on disk for as long as the files do not change.

    A file counts as unchanged if its path, size, modification time, and first and last 64 KB are the same.

    Args:
        files: The files that the result depends on. If there are none, it is computed every time.
        compute: Computes a digest.
        of: What the digest describes, besides the files.
    """
    states = [part for path in sorted(files) for part in _state(path)]
    if not states:
        return compute()
    key = digest_of([of.encode(), transformers.__version__.encode(), *states], digits=64)
    if (found := stored(key)) is None:
        found = compute()
        store(key, found)
    return found


def stored(key: str) -> str | None:
    """The text that was stored on disk under `key`, or None."""
    path = cache_folder("results") / key
    return path.read_text() or None if path.is_file() else None


def store(key: str, text: str) -> None:
    """Store a text that is not empty."""
    with suppress(ValueError):  # the cache is not writable
        write_atomically(cache_folder("results") / key, text)


def cache_folder(name: str) -> Path:
    """A folder of this package for results that can be computed again."""
    return Path(constants.HF_HOME, "lightning_dpo", name)


@cache
def code_digest(*folders: str) -> str:
    """Digest of the source files of this package in some of its folders."""
    package = Path(__file__).parents[1]
    files = sorted(path for folder in folders for path in (package / folder).rglob("*.py"))
    return digest_of(part for path in files for part in (str(path.relative_to(package)).encode(), path.read_bytes()))


def versions() -> dict[str, str]:
    """Major and minor versions of the libraries that compute log-probs, and the precision of fp32 matrix products."""
    named = {"torch": torch.__version__, "transformers": transformers.__version__}
    short = {name: ".".join(version.split(".")[:2]) for name, version in named.items()}
    return short | {"fp32 matrix products": torch.get_float32_matmul_precision()}


def _state(path: Path) -> list[bytes]:
    status = path.stat()
    with path.open("rb") as file:
        first = file.read(_BLOCK)
        file.seek(max(0, status.st_size - _BLOCK))
        return [f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode(), first, file.read(_BLOCK)]
