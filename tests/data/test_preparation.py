from functools import partial

import pytest

from lightning_dpo import PreferenceDataModule, UserError
from lightning_dpo.data.sources import jsonl_pair


def made(name: str, count: int, own_validation: bool = False):
    """Rows by split, whose prompts begin with `name`."""

    def rows(split):
        if split == "validation" and not own_validation:
            return None
        numbers = range(count) if split == "train" else range(count - 2, count + 1)
        return [{"prompt": f"{name}{n}:", "chosen": " yes", "rejected": " no"} for n in numbers]

    return rows


def mixed(tokenizer, sources, **options) -> PreferenceDataModule:
    data = PreferenceDataModule(
        rows={"a": made("a", 10), "b": made("b", 20, own_validation=True), "unused": made("c", 1)},
        sources=sources, tokenizer=tokenizer, val_fraction=0.2, **options,
    )  # fmt: skip
    data.setup()
    return data


def test_a_mixture_takes_each_source_as_often_as_its_weight(tokenizer):
    data = mixed(tokenizer, {"a": 2, "b": 0.5})
    assert data.sources == ["a", "b"]
    assert {name: data.counts[f"train_of_{name}"] for name in "ab"} == {"a": 16, "b": 9}
    assert {name: data.counts[f"val_of_{name}"] for name in "ab"} == {"a": 2, "b": 3}
    for pairs in (data.train_pairs, data.val_pairs):
        assert ["ab".index(prompt[0]) for prompt in pairs["prompt"]] == pairs["source"][:]
    assert data.counts["train_prompt_in_validation"] == 2


def test_no_training_prompt_is_in_the_validation_of_another_source(tokenizer):
    data = PreferenceDataModule(
        rows={"first": made("same", 10), "second": made("same", 10)}, tokenizer=tokenizer, val_fraction=0.3
    )
    data.setup()
    assert not set(data.train_pairs["prompt"]) & set(data.val_pairs["prompt"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": {"c": 1}}, r"data.sources={'c': 1}: its keys must be names of sources: a, b, unused"),
        ({"sources": {"a": 0}}, r"data.sources.a=0 must be a positive number"),
        ({"sources": {"a": 1}, "path": {"b": "x"}}, r"data.path={'b': 'x'}: its keys must be names of sources: a"),
        ({"sources": {"a": 1}, "path": "x"}, r"data.path=x: its keys must be names of sources"),
    ],
)
def test_names_that_belong_to_no_source(tokenizer, options, message):
    with pytest.raises(UserError, match=message):
        mixed(tokenizer, **options)


def test_weights_are_for_several_sources(tokenizer):
    with pytest.raises(UserError, match=r"data.sources needs several datasets, and there is only one"):
        PreferenceDataModule(rows=made("a", 3), sources={"a": 1}, tokenizer=tokenizer)
    with pytest.raises(
        UserError, match=r"data.val_path={'a': 'a.jsonl'} needs several datasets, and there is only one: set"
    ):
        PreferenceDataModule("b.jsonl", val_path={"a": "a.jsonl"}, tokenizer=tokenizer)


def test_before_a_validation_nothing_is_read_that_trains(tokenizer):
    asked = []

    def rows(split):
        asked.append(split)
        return made("q", 10, own_validation=True)(split)

    data = PreferenceDataModule(rows=rows, tokenizer=tokenizer)
    data.setup("validate")
    assert (asked, len(data.val_pairs), len(data.train_pairs)) == (["validation"], 3, 0)
    data.setup("fit")
    assert (len(data.val_pairs), len(data.train_pairs)) == (3, 8)
    assert data.counts["train"] == 8
    split = PreferenceDataModule(rows=made("q", 10), tokenizer=tokenizer, val_fraction=0.3)
    both = []
    for stage in ("validate", "fit"):
        split.setup(stage)
        both.append(split.val_pairs["prompt"][:])
    assert both[0] == both[1], "what training holds out"


def test_rows_without_a_source_are_those_of_other(tokenizer):
    rows = [{"prompt": f"{n}:", "chosen": " a", "rejected": " b", "source": "x" if n % 2 else None} for n in range(20)]
    source = partial(jsonl_pair, source="source")
    data = PreferenceDataModule(source=source, rows=lambda _: rows, tokenizer=tokenizer, drop_seen_prompts=False)
    data.setup()
    assert set(data.sources) == {"x", "other"}
