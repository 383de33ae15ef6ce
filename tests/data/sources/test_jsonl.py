import json
from functools import partial

import pytest

from lightning_dpo.data.parts import Part
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources import jsonl_pair
from lightning_dpo.errors import UserError


def test_columns_by_name():
    row = {"question": "q", "good": "g", "bad": "b", "trust": 0.5, "gap": 2}
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad", "weight": "trust", "offset": "gap"}
    assert jsonl_pair(row, **columns) == {"prompt": "q", "chosen": "g", "rejected": "b", "weight": 0.5, "offset": 2}


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        ({"sys": "Be kind."}, {"system": "sys"}, "sys needs messages; for text, set data.source.chat=true"),
        ({"prompt": None}, {}, "prompt is null"),
        (
            {"prompt": [{"role": "user", "content": "q"}], "in": "x"},
            {"query": "in"},
            "in can be appended only to a prompt that is text, not a list",
        ),
    ],
)
def test_a_column_without_effect_makes_a_row_invalid(row, columns, reason):
    with pytest.raises(InvalidRow, match=reason):
        jsonl_pair({"prompt": "q", "chosen": "a", "rejected": "b"} | row, **columns)


@pytest.mark.parametrize("columns", [{"chosen": "good"}, {"prompt": "instruction"}, {"weight": "w"}])
def test_a_missing_column_names_the_others_and_the_setting(columns):
    ((argument, column),) = columns.items()
    expected = f"column '{column}' is missing; there are prompt, chosen, rejected: set data.source.{argument}"
    with pytest.raises(InvalidRow, match=expected):
        jsonl_pair({"prompt": "q", "chosen": "a", "rejected": "b"}, **columns)


def test_whole_texts_contain_their_prompt_only_if_asked():
    row = {"chosen": "Q: yes", "rejected": "Q: no"}
    with pytest.raises(InvalidRow, match="column 'prompt' is missing"):
        jsonl_pair(row)
    assert jsonl_pair(row, prompt=None) == {"prompt": "Q:", "chosen": " yes", "rejected": " no"}


def test_columns_that_some_rows_lack(tmp_path):
    """A column that no row has is an error of the config."""
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"} | more for more in ({"sys": "Be kind."}, {}, {"sys": None})]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, _ = Part(partial(jsonl_pair, system="sys", chat=True), path=str(path)).read("train", "")
    assert [len(json.loads(prompt)) for prompt in pairs["prompt"]] == [2, 1, 1]
    with pytest.raises(UserError, match=r"data.source.system=syst: no row of .* has this column; there are"):
        Part(partial(jsonl_pair, system="syst", chat=True), path=str(path)).read("train", "")
