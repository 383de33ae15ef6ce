import inspect
import pickle

import pytest
import torch
from lightning.pytorch.plugins import HalfPrecision

from lightning_dpo.batch import PreferenceBatch, TokenizedPair
from tests.support.pairs import padded_batch, random_pairs


def test_moves_as_a_whole_and_keeps_its_dtypes():
    batch = padded_batch(random_pairs(3))
    moved = batch.to("meta")
    assert {value.device.type for value in vars(moved).values() if value is not None} == {"meta"}
    assert moved.weight.dtype == torch.float32
    assert moved.segments is None


def test_precision_plugins_do_not_change_its_numbers():
    batch = padded_batch(random_pairs(3))
    assert HalfPrecision("bf16-true").convert_input(batch).weight.dtype == torch.float32


def test_cannot_be_changed():
    batch = padded_batch(random_pairs(2))
    with pytest.raises(AttributeError, match="another weight"):
        batch.weight = torch.zeros(2)


def test_rejects_fields_it_does_not_have():
    with pytest.raises(TypeError, match="missing a required argument: 'position_ids'"):
        PreferenceBatch(input_ids=torch.zeros(1))


def test_survives_the_way_from_a_worker_process():
    batch = padded_batch(random_pairs(2))
    assert torch.equal(pickle.loads(pickle.dumps(batch)).target_ids, batch.target_ids)


def test_it_introduces_itself():
    batch = padded_batch([TokenizedPair(0, [1, 2], [3], [4, 5])])
    assert repr(batch) == "PreferenceBatch(1 pairs, 2 completions, padded: (2, 4))"
    assert "completion_lengths: torch.Tensor" in str(inspect.signature(PreferenceBatch))
    with pytest.raises(AttributeError, match="weight cannot be deleted"):
        del batch.weight


def test_a_subclass_may_have_more():
    class Marked(PreferenceBatch):
        mark: int

    assert Marked(**vars(padded_batch(random_pairs(1))), mark=3).mark == 3
