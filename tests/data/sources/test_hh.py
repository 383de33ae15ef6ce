import gzip
import json

import pytest
from datasets import Dataset

from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources.hh import hh_pairs, split_dialogues
from lightning_dpo.errors import UserError
from tests.support.pairs import HH_FILE


def test_only_the_last_answer_is_the_answer():
    start = "\n\nHuman: One?\n\nAssistant: Two.\n\nHuman: Three?\n\nAssistant:"
    pair = split_dialogues({"chosen": start + " Four.", "rejected": start + " Five."})
    assert pair == {"prompt": start, "chosen": " Four.", "rejected": " Five."}


def test_answers_that_begin_alike_keep_their_beginning():
    """A common character prefix would take ` Yes` for prompt, as TRL's implicit prompts do in a fifth of HH."""
    start = "\n\nHuman: Sure?\n\nAssistant:"
    assert split_dialogues({"chosen": start + " Yes.", "rejected": start + " Yesterday."})["chosen"] == " Yes."


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: A\n\nAssistant: x", "\n\nHuman: B\n\nAssistant: y", "different_prompts"),
        ("\n\nHuman: A", "\n\nHuman: A\n\nAssistant: y", "no_answer"),
        ("\n\nHuman: A\n\nAssistant: x", None, "wrong_type"),
    ],
)
def test_flawed_rows(chosen, rejected, reason):
    with pytest.raises(InvalidRow, match=reason):
        split_dialogues({"chosen": chosen, "rejected": rejected})


def test_the_hubs_splits_and_subsets(monkeypatch):
    asked = []

    def load_dataset(name, data_dir, split, streaming):
        asked.append((name, data_dir, split))
        start = "\n\nHuman: A\n\nAssistant:"
        return Dataset.from_list([{"chosen": start + " x", "rejected": start + " y"}])

    monkeypatch.setattr("lightning_dpo.data.sources.hub.load_dataset", load_dataset)
    assert hh_pairs("train")[0]["where"] == "Anthropic/hh-rlhf[train]:0"
    hh_pairs("validation", subset="harmless-base")
    assert asked == [("Anthropic/hh-rlhf", None, "train"), ("Anthropic/hh-rlhf", "harmless-base", "test")]


def test_a_hub_that_cannot_be_reached_and_a_subset_that_is_none():
    with pytest.raises(UserError, match=r"Anthropic/hh-rlhf cannot be loaded .* give a file with data.path"):
        hh_pairs("train")
    with pytest.raises(UserError, match=r"data.source.subset=harmless: HH has all, harmless-base"):
        hh_pairs("train", subset="harmless")


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH sample is not here")
def test_the_real_file_has_its_six_known_flaws():
    pairs = hh_pairs("train", HH_FILE)
    flaws = {row: reason for row, reason in enumerate(pairs["invalid"]) if reason}
    empty = dict.fromkeys((86, 516, 925, 1103), "empty_answer")
    assert flaws == empty | dict.fromkeys((1254, 1688), "different_prompts")
    with gzip.open(HH_FILE, "rt", encoding="utf-8") as file:
        for row, line in zip(pairs, file, strict=True):
            if not row["invalid"]:
                assert row["prompt"] + row["chosen"] == json.loads(line)["chosen"]
                assert row["prompt"] + row["rejected"] == json.loads(line)["rejected"]
