import pickle

import numpy as np
import pytest
import torch

from lightning_dpo.models.reference_cache import ReferenceCache

FACTS = {"starting weights (sha256)": "abc", "precision": "32-true"}


def keys_of(*numbers: int) -> np.ndarray:
    """Keys of 16 bytes. Most end with zeros, which numpy removes from strings."""
    return np.frombuffer(b"".join(number.to_bytes(16, "little") for number in numbers), "S16")


def filled(folder, *numbers: int) -> ReferenceCache:
    cache = ReferenceCache(folder, FACTS)
    cache.create()
    cache.add(keys_of(*numbers), [torch.full((number,), -float(number)) for number in numbers])
    return cache


def test_log_probs_are_found_by_key_in_any_order(tmp_path):
    cache = filled(tmp_path, 3, 1, 2)
    cache.add(keys_of(7), [torch.tensor([-0.1, -0.2])])
    table = cache.read()
    assert len(table) == 4
    assert table([bytes(key.ljust(16, b"\0")) for key in keys_of(2, 3).tolist()]) == [[-2.0] * 2, [-3.0] * 3]
    assert table([(7).to_bytes(16, "little")]) == [torch.tensor([-0.1, -0.2]).tolist()]
    assert table.missing(keys_of(1, 9, 2)).tolist() == [False, True, False]


def test_a_key_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="not in the cache"):
        filled(tmp_path, 1).read()([(5).to_bytes(16, "little")])


def test_an_empty_cache_misses_everything(tmp_path):
    assert ReferenceCache(tmp_path, FACTS).read().missing(keys_of(1, 2)).all()


def test_every_fact_is_part_of_the_address(tmp_path):
    folders = {ReferenceCache(tmp_path, FACTS | change).folder for change in ({}, *({name: "other"} for name in FACTS))}
    assert len(folders) == 1 + len(FACTS)


def test_worker_processes_map_the_files_themselves(tmp_path):
    table = filled(tmp_path, 1, 2).read()
    sent = pickle.dumps(table)
    assert len(sent) < 1000
    assert pickle.loads(sent)([(2).to_bytes(16, "little")]) == [[-2.0, -2.0]]


@pytest.mark.parametrize("position", [0.1, 0.4, 0.7, 0.999])
def test_a_flipped_byte_is_noticed_and_the_shard_not_used(tmp_path, position, caplog):
    cache = filled(tmp_path, *range(1, 40))
    (shard,) = cache.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[int(position * len(content))] ^= 1
    shard.write_bytes(content)
    assert cache.read().missing(keys_of(1)).all()
    assert f"{shard} is damaged and is not used" in caplog.text


def test_a_shard_that_was_cut_off_is_not_used(tmp_path, caplog):
    cache = filled(tmp_path, *range(1, 40))
    (shard,) = cache.folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:200])
    assert not len(cache.read())
    assert "is damaged" in caplog.text
