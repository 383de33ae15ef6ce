import json
from functools import partial
from pathlib import Path

import datasets
import lightning
import pytest

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.data.sources import jsonl_pair
from lightning_dpo.data.steps.forward_size import StreamTokens
from tests.support.models import make_llama
from tests.support.training import trainer_for


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(*numbers) -> list[dict]:
    return [{"prompt": f"Q{n}:", "chosen": f" yes {n}", "rejected": " no"} for n in numbers]


def test_validation_pairs_share_no_prompt_with_training(pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.25)
    data.setup()
    assert not set(data.train_pairs["prompt"]) & set(data.val_pairs["prompt"])
    assert (len(data.train_pairs), len(data.val_pairs)) == (18, 6)


def test_with_a_validation_file_training_gives_up_the_prompts_they_share(tmp_path, tokenizer):
    train, val = write(tmp_path / "train.jsonl", rows(*range(10))), write(tmp_path / "val.jsonl", rows(0, 1, 99))
    data = PreferenceDataModule(train, tokenizer=tokenizer, val_path=val)
    data.setup()
    assert (len(data.train_pairs), len(data.val_pairs)) == (8, 3)
    assert data.counts["train_prompt_in_validation"] == 2
    data = PreferenceDataModule(train, tokenizer=tokenizer, val_path=val, drop_seen_prompts=False)
    data.setup()
    assert len(data.train_pairs) == 10


def test_overlong_pairs_are_left_out_and_counted(tmp_path, tokenizer):
    long = {"prompt": "Q:", "chosen": " yes" * 50, "rejected": " no"}
    path = write(tmp_path / "pairs.jsonl", [*rows(*range(10)), long])
    val = write(tmp_path / "val.jsonl", rows(99))
    data = PreferenceDataModule(path, tokenizer=tokenizer, val_path=val, max_length=30)
    data.setup()
    assert (data.counts["train"], data.counts["train_overlong"]) == (10, 1)


def test_nothing_short_enough_is_an_error_that_contains_advice(pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, max_length=3, val_fraction=0.2)
    with pytest.raises(UserError, match=r"no train pairs are left; 19 are longer than data.max_length=3"):
        data.setup()


def test_invalid_rows_stop_or_are_listed(tmp_path, tokenizer):
    path = write(tmp_path / "pairs.jsonl", [*rows(*range(9)), {"prompt": "Q:", "chosen": "", "rejected": " no"}])
    with pytest.raises(UserError, match=r"pairs.jsonl:10: an answer is empty. 1 of 10 rows are invalid"):
        PreferenceDataModule(path, tokenizer=tokenizer, val_fraction=0.2).setup()
    options = {"on_invalid": "drop", "max_invalid_fraction": 0.2, "folder": str(tmp_path)}
    data = PreferenceDataModule(path, tokenizer=tokenizer, val_fraction=0.2, **options)
    data.setup()
    assert data.counts["invalid"] == 1
    listed = json.loads((tmp_path / "invalid_rows.jsonl").read_text())
    assert listed == {"where": "pairs.jsonl:10", "reason": "an answer is empty"}


def test_what_tokenization_finds_is_invalid_too(tmp_path, tokenizer):
    path = write(tmp_path / "pairs.jsonl", [*rows(*range(9)), rows(9)[0] | {"chosen": " a <|end|> b"}])
    with pytest.raises(UserError, match=r"pairs.jsonl:10: the text contains a special token of the tokenizer"):
        PreferenceDataModule(path, tokenizer=tokenizer, val_fraction=0.2).setup()


def test_a_sample_is_random_with_the_seed(pairs_file, tokenizer):
    def prompts(seed: int) -> list[str]:
        data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, max_pairs=10, val_fraction=0.2, seed=seed)
        data.setup()
        return data.train_pairs["prompt"][:]

    assert len(prompts(0)) == 8
    assert prompts(0) == prompts(0) != prompts(1)


def test_weights_and_offsets_reach_the_batch(tmp_path, tokenizer):
    table = [row | {"trust": 0.5, "gap": 2.0} for row in rows(*range(8))]
    path = write(tmp_path / "pairs.jsonl", table)

    source = partial(jsonl_pair, weight="trust", offset="gap")
    data = PreferenceDataModule(path, source=source, tokenizer=tokenizer, val_fraction=0.2)
    data.trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    data.setup()
    batch = next(iter(data.val_dataloader()))
    assert set(batch.weight.tolist()) == {0.5}
    assert set(batch.offset.tolist()) == {2.0}


def test_columns_that_have_an_effect_are_known(tmp_path, tokenizer):
    """Those that an option maps before the data are read; those that a source adds, after."""
    path = write(tmp_path / "pairs.jsonl", [row | {"gap": 2.0} for row in rows(*range(8))])
    mapped = PreferenceDataModule(path, source=partial(jsonl_pair, offset="gap"), tokenizer=tokenizer)
    assert mapped.columns == {"offset"}

    def own(row):
        return jsonl_pair(row) | {"weight": 0.5, "offset": 0.0}

    data = PreferenceDataModule(path, source=own, tokenizer=tokenizer, val_fraction=0.2)
    assert data.columns == frozenset()
    data.setup()
    assert data.columns == {"weight"}


def test_rows_may_be_in_memory(tmp_path, tokenizer):
    def in_memory(split):
        return rows(*range(10)) if split == "train" else None

    data = PreferenceDataModule(rows=in_memory, tokenizer=tokenizer, val_fraction=0.2)
    trainer = lightning.Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(DPOModule(make_llama()), data)
    assert trainer.global_step == 1


def test_the_training_file_cannot_validate(pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_path=str(pairs_file))
    with pytest.raises(
        UserError, match=r"all training prompts are also in the validation set; is data.val_path the training"
    ):
        data.setup()


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_a_forward_pass_of_more_than_max_tokens_is_rejected_with_the_batch_size_that_fits(
    pairs_file, tokenizer, layout
):
    def module(max_tokens: int) -> PreferenceDataModule:
        options = {"val_fraction": 0.2, "batch_size": 6, "pairs_per_step": 12, "max_tokens": max_tokens}
        return PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, layout=layout, **options)

    data = module(10**6)
    data.setup()

    def largest(rows, batch_size: int) -> int:
        """By definition, of the longest pairs: rows as long as the longest; or each prompt once."""
        if layout == "padded":
            rows = [2 * (len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"]))) for r in rows]
            return max(rows) * batch_size
        return sum(sorted(len(r["prompt_ids"] + r["chosen_ids"] + r["rejected_ids"]) for r in rows)[-batch_size:])

    sides = (data.train_pairs, data.val_pairs)
    most, fits, least = (max(largest(rows, size) for rows in sides) for size in (6, 4, 1))
    module(most).setup()
    # Five would fit as well, but does not divide the step.
    with pytest.raises(UserError, match=rf"max_tokens={fits}: .* pairs has up to \d+; set data.batch_size=4$"):
        module(fits).setup()
    with pytest.raises(UserError, match=r"no batch size fits: reduce data.max_length"):
        module(least - 1).setup()


def test_a_training_pair_is_named_by_its_line(pairs_file, tokenizer):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.2)
    data.setup()
    line = int(data.place(3).removeprefix("pairs.jsonl:"))
    assert json.loads(pairs_file.read_text().splitlines()[line - 1])["prompt"] == data.train_pairs[3]["prompt"]


def test_tokens_come_from_the_cache_the_second_time(pairs_file, tokenizer):
    cached = Path(datasets.config.HF_DATASETS_CACHE, "lightning_dpo")
    before = set(cached.glob("*.arrow"))
    sides, written = [], []
    for _ in range(2):
        data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, max_length=77, val_fraction=0.2)
        data.setup()
        sides.append((data.train_pairs["chosen_ids"][:], data.val_pairs["where"][:]))
        written.append([(file.name, file.stat().st_mtime_ns) for file in set(cached.glob("*.arrow")) - before])
    assert len(written[0]) == 1
    assert written[0] == written[1]
    assert sides[0] == sides[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1, got 1.0"),
        ({"on_overlong": "cut"}, "on_overlong must be drop or truncate, got 'cut'"),
        ({"on_invalid": "skip"}, "on_invalid must be error or drop, got 'skip'"),
        ({"max_invalid_fraction": 2}, r"max_invalid_fraction must be in \[0, 1\], got 2"),
    ],
)
def test_rejects_values_that_make_no_sense(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        PreferenceDataModule("pairs.jsonl", tokenizer=tokenizer, **options)


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_the_longest_pairs_bound_every_forward_pass(pairs_file, tokenizer, layout):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=4, layout=layout)
    data.setup()
    data.trainer = lightning.Trainer(accelerator="cpu", logger=False)
    tokens, scored = data.largest_batch()
    batches = list(data.train_dataloader())
    assert len(batches) > 4
    assert max(batch.input_ids.numel() for batch in batches) <= tokens
    assert max(len(batch.target_ids) for batch in batches) <= scored


def test_the_tokens_of_a_stream_count_a_prompt_once(tokenizer, tmp_path):
    three = [{"prompt": "Say it:", "chosen": f" yes {n}", "rejected": " no"} for n in range(3)]
    path = write(tmp_path / "same.jsonl", three)
    data = PreferenceDataModule(path, tokenizer=tokenizer, val_path=path, drop_seen_prompts=False)
    data.setup()
    stream, prompt = StreamTokens(data.pairs.lengths, chosen_only=False), len(data.train_pairs[0]["prompt_ids"])
    assert stream([0, 1, 2]) == sum(stream([row]) for row in range(3)) - 2 * prompt
    assert StreamTokens(data.pairs.lengths, chosen_only=True)([0]) == prompt + len(data.train_pairs[0]["chosen_ids"])


def test_pairs_of_one_prompt_are_brought_together(tokenizer, tmp_path):
    path = write(tmp_path / "pairs.jsonl", [row | {"prompt": f"Q{n % 4}:"} for n, row in enumerate(rows(*range(24)))])
    data = PreferenceDataModule(
        path, tokenizer=tokenizer, val_path=path, drop_seen_prompts=False, batch_size=6, layout="shared",
        group_by_prompt=True,
    )  # fmt: skip
    data.setup()
    data.trainer = lightning.Trainer(accelerator="cpu", logger=False)
    # Each of the four prompts has six pairs, all with one rejected answer: 7 completions instead of 12.
    assert [len(batch.completion_lengths) for batch in data.train_dataloader()] == [7] * 4
    assert [len(batch.completion_lengths) for batch in data.val_dataloader()] == [7] * 4


def test_batches_can_be_looked_at_without_a_trainer(tokenizer):
    for step in (None, 4):
        data = PreferenceDataModule(rows=rows(*range(9)), tokenizer=tokenizer, batch_size=2, pairs_per_step=step)
        data.setup()
        batch = next(iter(data.train_dataloader()))
        assert len(batch.chosen) == 2
        assert int(batch.step_pairs) == (step or 2)


def test_limited_validation_takes_sources_in_proportion(tmp_path, tokenizer):
    """Six of nine validation pairs: four of one source, two of the other."""
    sides = {"a": {"train": rows(1), "validation": rows(*range(10, 16))},
             "b": {"train": rows(2), "validation": rows(*range(20, 23))}}  # fmt: skip
    data = PreferenceDataModule(rows=sides, tokenizer=tokenizer, batch_size=2)
    (metrics,) = trainer_for(tmp_path, limit_val_batches=3).validate(DPOModule(make_llama()), data)
    assert [metrics[f"val/{name}pairs"] for name in ("", "a/", "b/")] == [6, 4, 2]
