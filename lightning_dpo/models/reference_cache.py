"""Log-probs of a reference on disk, by content: each completion is computed once, whatever run needs it.

reference/<digest of the reference>/reference.json     what the digest is of
                                    .lock              held by the process that adds shards
                                    <name>.safetensors shards, which never change: keys, lengths, log-probs
"""

import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_dpo.models.digests import digest_of
from lightning_dpo.run_folder import atomic_write, write_atomically

log = logging.getLogger(__name__)

KEY_BYTES = 16
_FORMAT = "1"  # of the shards
_DIGITS = 32


class ReferenceCache:
    """The cached log-probs of one reference.

    Args:
        folder: The folder of all references.
        facts: Everything that the log-probs depend on, besides the tokens.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str]) -> None:
        self.facts = {"format": _FORMAT, **facts}
        text = json.dumps(self.facts, indent=1, sort_keys=True)
        self.folder = folder / digest_of([text.encode()], _DIGITS)
        self.lock = self.folder / ".lock"
        """The file to lock while shards are added."""
        self._record, self._text = self.folder / "reference.json", text

    def create(self) -> None:
        """Write what the folder is for.

        Raises:
            WriteError: It is not writable.
        """
        if not self._record.exists():
            write_atomically(self._record, self._text)

    def add(self, keys: np.ndarray, logps: Sequence[Tensor]) -> None:
        """Write a shard.

        Args:
            keys: The keys of completions. Shape: (n,), strings of 16 bytes.
            logps: Log-probs of the scored tokens of each. Shape of each: (tokens,).

        Raises:
            WriteError: The folder is not writable, or the disk is full.
        """
        tensors = {
            "keys": torch.from_numpy(np.frombuffer(bytearray(keys.tobytes()), np.uint8)).view(-1, KEY_BYTES),
            "lengths": torch.tensor([len(values) for values in logps], dtype=torch.int32),
            "logps": torch.cat([values.float() for values in logps]),
        }
        # Named by content: processes that write at the same time write different files, or the same one.
        path = self.folder / f"{digest_of([keys.tobytes()], _DIGITS)}.safetensors"
        with atomic_write(path) as file:
            file.write(save(tensors, {"format": _FORMAT, "crc32": str(_checksum(tensors))}))

    def read(self) -> "ReferenceTable":
        """The log-probs that are in the cache now."""
        return ReferenceTable(sorted(self.folder.glob("[!.]*.safetensors")))


class ReferenceTable:
    """Log-probs by key. The files are mapped into memory, and read where they are needed.

    Args:
        shards: The files. A damaged one is not used.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        whole = [(path, tensors) for path in shards if (tensors := _opened(path)) is not None]
        self._shards, found = [path for path, _ in whole], [tensors for _, tensors in whole]
        keys = np.concatenate([_as_keys(tensors["keys"].numpy()) for tensors in found] or [_as_keys(b"")])
        counts = [tensors["lengths"].numpy() for tensors in found]
        ends = [np.cumsum(count, dtype=np.int64) for count in counts]
        order = np.argsort(keys, kind="stable")
        self._keys, self._logps = keys[order], [tensors["logps"].numpy() for tensors in found]
        if not found:
            return
        self._shard = np.repeat(np.arange(len(found)), [len(count) for count in counts])[order]
        self._end, self._length = np.concatenate(ends)[order], np.concatenate(counts)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def __call__(self, keys: Sequence[bytes]) -> list[list[float]]:
        """Log-probs of the scored tokens of each completion, in nats.

        Raises:
            KeyError: One is not in the cache.
        """
        wanted = _as_keys(b"".join(keys))
        if self.missing(wanted).any():
            raise KeyError("a completion is not in the cache of reference log-probs")
        rows = np.searchsorted(self._keys, wanted)
        return [
            self._logps[shard][end - length : end].tolist()
            for shard, end, length in zip(self._shard[rows], self._end[rows], self._length[rows], strict=True)
        ]

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Whether each of `keys` is not in the cache. Shape: (n,), bool."""
        if not len(self):
            return np.ones(len(keys), bool)
        rows = np.searchsorted(self._keys, keys).clip(max=len(self) - 1)
        return self._keys[rows] != keys

    def __reduce__(self) -> tuple[type["ReferenceTable"], tuple[list[Path]]]:
        # For worker processes, which map the files themselves.
        return ReferenceTable, (self._shards,)


def _as_keys(keys: bytes | np.ndarray) -> np.ndarray:
    """Keys as an array of strings of bytes, which numpy can sort. Shape: (n,)."""
    return np.frombuffer(keys if isinstance(keys, bytes) else keys.tobytes(), dtype=f"S{KEY_BYTES}")


def _opened(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a shard; None if it is damaged, so that its completions are computed again."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("keys", "lengths", "logps")}
            about = file.metadata()
        if about["format"] == _FORMAT and about["crc32"] == str(_checksum(tensors)):
            return tensors
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        log.debug("%s: %s", path, error)
    log.warning("%s is damaged and is not used: its log-probs are computed again.", path)
    return None


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    checksum = 0
    for part in _bytes_of(tensors):
        checksum = zlib.crc32(part, checksum)
    return checksum


def _bytes_of(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    return (tensors[name].numpy().data.cast("B") for name in sorted(tensors) if tensors[name].numel())
