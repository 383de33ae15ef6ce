import pytest
from datasets import Dataset

from lightning_dpo.data.parts import Part
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources import HubRows, hub, recognized_pair

USER = {"role": "user", "content": "q"}
DIALOGUES = {side: [USER, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
# Columns as in the datasets that are named.
ROWS = {
    "jondurbin/truthy-dpo": {"id": "1", "prompt": "q", "chosen": "a", "rejected": "b"},
    "argilla/ultrafeedback": {"instruction": "q", "chosen_response": "a", "rejected_response": "b"},
    "alpaca": {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    "Vezora/Code-Preference-Pairs": {"input": "q", "accepted": "a", "rejected": "b"},
    "lvwerra/stack-exchange-paired": {"question": "q", "response_j": "a", "response_k": "b"},
}


@pytest.mark.parametrize("name", ROWS)
def test_columns_of_text_are_recognized(name):
    assert recognized_pair(ROWS[name]) == {"prompt": "q", "chosen": "a", "rejected": "b"}


def test_the_input_of_an_instruction_is_part_of_the_prompt():
    row = {"instruction": "Translate.", "input": "Hund", "chosen": "dog", "rejected": "cat"}
    assert recognized_pair(row)["prompt"] == "Translate.\nHund"


def test_a_question_and_a_system_message_become_messages_with_chat():
    """The columns of Intel/orca_dpo_pairs."""
    row = {"system": "Be kind.", "question": "q", "chosen": "a", "rejected": "b"}
    prompt = recognized_pair(row, chat=True)["prompt"]
    assert prompt == [{"role": "system", "content": "Be kind."}, USER]
    with pytest.raises(InvalidRow, match=r"system needs messages; for text, set data.source.chat=true"):
        recognized_pair(row)


def test_dialogues_without_a_prompt_are_split():
    """The columns of trl-lib/ultrafeedback_binarized."""
    pair = recognized_pair(DIALOGUES | {"score_chosen": 5})
    assert pair["prompt"] == [USER]
    assert pair["chosen"] == [{"role": "assistant", "content": "chosen"}]


def test_a_named_column_takes_precedence():
    row = {"prompt": "x", "text": "q", "good": {"text": "a"}, "chosen": "x", "rejected": "b"}
    pair = recognized_pair(row, prompt="text", chosen="good.text")
    assert pair == {"prompt": "q", "chosen": "a", "rejected": "b"}


def test_an_unknown_column_is_asked_for():
    with pytest.raises(
        InvalidRow, match=r"known as the rejected answer; there are prompt, chosen, bad: set data.source.r"
    ):
        recognized_pair({"prompt": "q", "chosen": "a", "bad": "b"})


def test_columns_that_are_not_read_are_counted(monkeypatch):
    rows = Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b", "id": "1", "question": "q"}])
    monkeypatch.setattr(hub, "load_dataset", lambda *args, **options: rows)
    pairs, counts = Part(recognized_pair, HubRows("org/data")).read("train", "")
    assert (pairs["invalid"][0], dict(counts.ignored)) == ("", {"id": 1, "question": 1})
