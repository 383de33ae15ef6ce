import json

import pytest

from lightning_dpo.inspect_data import inspect_data
from tests.support.chat import assistant, chat_tokenizer, user
from tests.support.compose import composed
from tests.support.pairs import HH_FILE

SPECIAL = "the text contains a special token of the tokenizer"


def inspected(folder, *overrides) -> dict:
    inspect_data(composed(folder, *overrides, config_name="inspect_data"))
    assert (folder / "lengths.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "inspection.json").read_text())


def test_everything_that_is_to_be_known(tmp_path, model_folder, capsys):
    good = {"prompt": "Q:", "chosen": " a longer answer", "rejected": " no"}
    turned = good | {"chosen": good["rejected"], "rejected": good["chosen"]}
    rows = [good, good, turned, good | {"prompt": "V:"}, good | {"chosen": ""}, good | {"rejected": " no<|end|> more"}]
    rows.append(good | {"prompt": "L:", "chosen": " longer" * 40})
    for name, lines in (("train", rows), ("val", [good | {"prompt": "V:"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    facts = inspected(
        tmp_path, "model=llama", f"model.name={model_folder}", "data=jsonl", f"data.path={tmp_path / 'train.jsonl'}",
        f"data.val_path={tmp_path / 'val.jsonl'}", "data.max_length=40",
    )  # fmt: skip
    assert facts["invalid_rows_by_reason"] == {"an answer is empty": 1, SPECIAL: 1}
    assert facts["invalid_rows"] == ["train.jsonl:5: an answer is empty", f"train.jsonl:6: {SPECIAL} ('<|end|>')"]
    assert facts["duplicates"] == 1
    assert facts["exchanged_answers"] == 3
    assert facts["prompt_in_validation"] == 1
    assert facts["longer_answer_preferred"] == 3 / 4  # the overlong one, too
    assert facts["counts"]["train_overlong"] == 1
    assert facts["shared_prompt"] == 3
    once, twice = facts["tokens"].values()
    assert twice - once == 4 * 2  # three pairs with Q: and one with L:, of two tokens each
    printed = capsys.readouterr().out
    assert "▏<|end|>▏" in printed
    assert "75.0%" in printed


def test_messages_show_their_control_tokens(tmp_path, tokenizer, capsys):
    chat = chat_tokenizer(tokenizer)
    chat.save_pretrained(tmp_path / "chat")
    rows = [
        {"prompt": [{"role": "system", "content": "Be brief."}, user(f"{n}?")], "chosen": [assistant("Hello")]}
        | {"rejected": [assistant("No") | {"score": 2}], "note": "n"}
        for n in range(9)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["model=llama", f"model.name={tmp_path / 'chat'}", "data=jsonl", f"data.path={tmp_path / 'rows.jsonl'}"]
    facts = inspected(tmp_path, *options, "data.val_fraction=0.2", "shown=1")
    printed = capsys.readouterr().out
    assert "▏<|im_start|>▏" in printed
    assert "▏<|im_end|>▏\\n▏" in printed
    for message in ("prompt: system", "Be brief.", "prompt: user", "chosen: assistant", "rejected: assistant"):
        assert message in printed
    assert facts["ignored"] == {"note": 9, "messages.score": 9}
    assert "messages.score: 9" in printed


def test_the_default_needs_nothing(tmp_path):
    facts = inspected(tmp_path, "data.rows.pairs=300", "data.rows.val_pairs=20")
    assert facts["equal_length"] == 1.0


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH sample is not here")
def test_hhs_six_flawed_rows_are_found_and_nothing_stops(tmp_path, model_folder, capsys):
    facts = inspected(
        tmp_path,
        "model=llama",
        f"model.name={model_folder}",
        "data=hh",
        f"data.path={HH_FILE}",
        "data.on_invalid=error",
    )
    places = [int(row.split(":")[1]) for row in facts["invalid_rows"]]
    assert places == [87, 517, 926, 1104, 1255, 1689]
    printed = capsys.readouterr().out
    assert "▏:▏" in printed  # Assistant's colon, the last token before an answer
