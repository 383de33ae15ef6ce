import importlib
import json
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from lightning_dpo import PreferenceDataModule
from lightning_dpo.data import preparation
from lightning_dpo.data.source_digests import function_digest
from lightning_dpo.data.sources import jsonl_pair

OWN_SOURCE = """
from words import START

def to_pair(row):
    return {{"prompt": START + row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]{more}}}
"""


@pytest.fixture
def prepared(pairs_file, tokenizer, tmp_path, monkeypatch):
    """Prepares the file of pairs, and returns the data module and whether rows were read."""
    # Other tests have files with the same content.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")

    def prepare(stage="fit", **options):
        read, reads = preparation.Preparation._read, []
        monkeypatch.setattr(preparation.Preparation, "_read", lambda *args: (reads.append(args), read(*args))[1])
        settings = {"path": str(pairs_file)} | options
        data = PreferenceDataModule(tokenizer=tokenizer, **{"val_fraction": 0.2} | settings)
        data.setup(stage)
        monkeypatch.setattr(preparation.Preparation, "_read", read)
        return data, bool(reads)

    return prepare


def everything(data: PreferenceDataModule):
    return [pairs[:] for pairs in (data.train_pairs, data.val_pairs, data.pairs.overlong)], data.counts, data.columns


def test_a_second_run_opens_what_the_first_one_has_prepared(prepared):
    (first, read), (second, again) = prepared(), prepared()
    assert (read, again) == (True, False)
    assert everything(first) == everything(second)
    assert first.pairs.facts == second.pairs.facts


@pytest.mark.parametrize(
    "options",
    [
        {"val_fraction": 0.3}, {"seed": 1}, {"max_length": 900}, {"max_pairs": 12}, {"drop_seen_prompts": False},
        {"on_overlong": "truncate"}, {"max_invalid_fraction": 0.5}, {"stage": "validate"},
    ],
)  # fmt: skip
def test_another_option_prepares_them_again(prepared, options):
    prepared()
    assert prepared(**options)[1]
    assert not prepared(**options)[1]


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"layout": "padded"}, {"num_proc": 2}, {"num_workers": 1}])
def test_options_of_batches_do_not(prepared, options):
    prepared()
    assert not prepared(**options)[1]


def test_an_edited_file_is_noticed(prepared, pairs_file):
    prepared()
    pairs_file.write_text(pairs_file.read_text().replace("Question 3", "Question 3 again"))
    data, read = prepared()
    assert read
    assert any("again" in prompt for prompt in (*data.train_pairs["prompt"], *data.val_pairs["prompt"]))


def test_an_edited_source_is_noticed_and_so_is_a_module_that_it_imports(prepared, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def with_own_source(start: str, more: str = "") -> bool:
        (tmp_path / "words.py").write_text(f"START = {start!r}\n")
        (tmp_path / "own_source.py").write_text(OWN_SOURCE.format(more=more))
        for name in ("words", "own_source"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return prepared(source=importlib.import_module("own_source").to_pair)[1]

    assert with_own_source("A ")
    assert not with_own_source("A ")
    assert with_own_source("Another ")
    assert with_own_source("Another ", ', "weight": 2.0')


def test_functions_that_are_not_only_their_source_have_no_digest():
    strength = 2.0

    def enclosed(row):
        return row | {"weight": strength}

    class Callable:
        def __call__(self, row):
            return row

    assert function_digest(enclosed) is None
    assert function_digest(Callable()) is None
    assert function_digest(jsonl_pair) is not None


def test_rows_in_memory_are_read_by_every_run(prepared, pairs_file):
    rows = [json.loads(line) for line in pairs_file.open()]
    for given in (rows, Dataset.from_list(rows)):
        assert [prepared(path=None, rows=given)[1] for _ in range(2)] == [True, True]


def test_what_was_reported_is_reported_again(prepared, pairs_file, tmp_path, caplog):
    with pairs_file.open("a") as file:
        file.write('{"prompt": "Question:", "chosen": "", "rejected": " no"}\n')
    texts = []
    for folder in ("a", "b"):
        caplog.clear()
        prepared(on_invalid="drop", max_invalid_fraction=0.5, folder=str(tmp_path / folder))
        listed = (tmp_path / folder / "invalid_rows.jsonl").read_text()
        assert json.loads(listed) == {"where": "pairs.jsonl:25", "reason": "an answer is empty"}
        texts.append([record.getMessage() for record in caplog.records if record.levelname == "WARNING"])
    assert texts[0] == texts[1]
    assert "Dropped: 1 of 25 rows are invalid" in texts[0][0]


def test_deleted_tokens_are_prepared_again(prepared):
    data, _ = prepared()
    expected = everything(data)
    for file in data.pairs.tokens.cache_files:
        Path(file["filename"]).unlink()
    again, read = prepared()
    assert read
    assert everything(again) == expected
