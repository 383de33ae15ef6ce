from itertools import count

import pytest
from datasets import Dataset

from lightning_dpo.data.parts import Part
from lightning_dpo.data.sources import HubRows, hh_pair, hub
from lightning_dpo.errors import UserError

START = "\n\nHuman: A\n\nAssistant:"
HH = HubRows("Anthropic/hh-rlhf", validation="test", folder="harmless-base")


def test_the_splits_and_the_folder_of_the_hub_are_read(monkeypatch):
    asked = []

    def load_dataset(name, config, data_dir, split, streaming):
        asked.append((name, config, data_dir, split, streaming))
        return Dataset.from_list([{"chosen": START + " x", "rejected": START + " y"}])

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    source = Part(hh_pair, HH)
    assert source.read("train", "")[0]["where"][0] == "Anthropic/hh-rlhf[train]:0"
    assert source.read("validation", "")[0]["where"][0] == "Anthropic/hh-rlhf[test]:0"
    expected = ("Anthropic/hh-rlhf", None, "harmless-base")
    assert asked == [(*expected, "train", False), (*expected, "test", False)]


def test_a_data_set_without_a_validation_split_has_no_validation_rows():
    assert HubRows("me/mine")("validation") is None


def test_not_more_rows_are_read_than_wanted(monkeypatch):
    """The whole dataset may be much larger than what is read of it."""

    def rows(name, config, data_dir, split, streaming):
        assert streaming
        for number in count():
            assert number < 5, "read too far"
            yield {"number": number}

    monkeypatch.setattr(hub, "load_dataset", rows)
    assert len(list(HubRows("me/large", max_rows=5)("train"))) == 5


def test_an_unreachable_hub_is_one_sentence():
    with pytest.raises(UserError, match=r"data.rows: Anthropic/hh-rlhf cannot be loaded .* set data.path to a file"):
        HH("train")
