import datasets
import pytest

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from tests.support.models import make_llama
from tests.support.training import trainer_for


def rows(*numbers) -> list[dict]:
    return [{"prompt": f"Q{n}:", "chosen": f" yes {n}", "rejected": " no"} for n in numbers]


@pytest.mark.parametrize(
    "given",
    [
        rows(*range(9)),
        datasets.Dataset.from_list(rows(*range(9))),
        {"train": rows(*range(7)), "validation": rows(7, 8)},
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows(*range(9)))}),
        lambda split: iter(rows(*range(9))) if split == "train" else None,
        {"a": rows(*range(4)), "b": rows(*range(4, 9))},
    ],
)
def test_rows_in_memory(tokenizer, given):
    data = PreferenceDataModule(rows=given, tokenizer=tokenizer, val_fraction=0.2)
    data.setup()
    assert len(data.train_pairs) + len(data.val_pairs) == 9
    assert len(data.sources) == (2 if isinstance(given, dict) and "a" in given else 1)


def test_rows_and_a_file_are_not_both_read(tokenizer):
    with pytest.raises(UserError, match="path and rows are both given, and only one of them is read"):
        PreferenceDataModule("pairs.jsonl", rows=rows(9), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pairs.jsonl", "rows is a str, and must be a list of dicts.* the name of a file is passed as path="),
        ({"train": [], "test": []}, "rows has a split test that would not be read: name it validation"),
        ([1, 2], "rows is a list of int, and must be a list of dicts"),
        ([{"prompt": "p"}, None], "rows is a list of NoneType"),
        ({"validation": rows(1)}, "rows has no split train; it has validation"),
        (lambda: rows(1), "must be a function of the split, train or validation"),
    ],
)
def test_rows_of_another_kind_are_rejected(tokenizer, given, message):
    with pytest.raises(UserError, match=message):
        PreferenceDataModule(rows=given, tokenizer=tokenizer)


def test_rows_of_an_iterator_are_read_once_and_used_twice(tmp_path, tokenizer):
    data = PreferenceDataModule(rows=iter(rows(*range(9))), tokenizer=tokenizer, val_fraction=0.2)
    trainer_for(tmp_path).validate(DPOModule(make_llama()), data)
    trainer_for(tmp_path).fit(DPOModule(make_llama()), data)
    assert len(list(data.train_dataloader())) == 1  # also after a fit


def test_rows_in_the_place_of_a_file_are_rejected(tokenizer):
    with pytest.raises(UserError, match=r"data.path must be the name of a file: pass rows that are in memory as rows="):
        PreferenceDataModule(rows(1, 2), tokenizer=tokenizer)
