import gzip
import json

import pytest

from lightning_dpo.data.parts import Part
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources import hh_pair
from tests.support.pairs import HH_FILE


def test_only_the_last_answer_is_the_answer():
    start = "\n\nHuman: One?\n\nAssistant: Two.\n\nHuman: Three?\n\nAssistant:"
    pair = hh_pair({"chosen": start + " Four.", "rejected": start + " Five."})
    assert pair == {"prompt": start, "chosen": " Four.", "rejected": " Five."}


def test_answers_with_a_common_beginning_keep_it():
    """A common character prefix would make ` Yes` part of the prompt, as TRL's implicit prompts do in a fifth of HH."""
    start = "\n\nHuman: Sure?\n\nAssistant:"
    assert hh_pair({"chosen": start + " Yes.", "rejected": start + " Yesterday."})["chosen"] == " Yes."


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (
            "\n\nHuman: A\n\nAssistant: x",
            "\n\nHuman: B\n\nAssistant: y",
            r"the two dialogues have different prompts \(after 9 characters, 'A' and 'B'\)",
        ),
        ("\n\nHuman: A", "\n\nHuman: A\n\nAssistant: y", "chosen has no 'Assistant:'"),
        ("\n\nHuman: A\n\nAssistant: x", None, "rejected must be text, not null"),
    ],
)
def test_flawed_rows(chosen, rejected, reason):
    with pytest.raises(InvalidRow, match=reason):
        hh_pair({"chosen": chosen, "rejected": rejected})


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH sample is not here")
def test_the_real_file_has_its_six_known_flaws():
    pairs = Part(hh_pair, path=HH_FILE).read("train", "")[0]
    flaws = {row: reason.partition(" (")[0] for row, reason in enumerate(pairs["invalid"]) if reason}
    empty = dict.fromkeys((86, 516, 925, 1103), "an answer is empty")
    assert flaws == empty | dict.fromkeys((1254, 1688), "the two dialogues have different prompts")
    with gzip.open(HH_FILE, "rt", encoding="utf-8") as file:
        for row, line in zip(pairs, file, strict=True):
            if not row["invalid"]:
                assert row["prompt"] + row["chosen"] == json.loads(line)["chosen"]
                assert row["prompt"] + row["rejected"] == json.loads(line)["rejected"]
