"""Weight, offset and label noise from columns and from scores, for every source."""

import math
from functools import partial

import pytest

from lightning_dpo import PreferenceDataModule, UserError
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources import (
    compared_pair,
    hh_pair,
    jsonl_pair,
    ranked_pairs,
    shp_pair,
    stack_exchange_pairs,
    swift_pair,
    ultrafeedback_pair,
)
from lightning_dpo.losses import DPO
from lightning_dpo.training.start_checks import check_columns

DIALOGUE = "\n\nHuman: Why?\n\nAssistant:"
HH = {"chosen": f"{DIALOGUE} Yes", "rejected": f"{DIALOGUE} No"}
MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Yes"}]
ULTRAFEEDBACK = {"prompt": "Why?", "chosen": "Yes", "rejected": "No", "score_chosen": 8.0, "score_rejected": 6.5}
SHP = {"history": "Why?", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_A": 2, "score_B": 6}
HELPSTEER = {"context": "Why?", "response1": "a", "response2": "b", "overall_preference": -2}
RANKED = {"prompt": "Why?", "answers": [{"answer": text, "rank": rank} for rank, text in enumerate("abc", 1)]}
STACK = {"question": "Why?", "answers": [{"text": "a", "pm_score": 5}, {"text": "b", "pm_score": 1}]}
helpsteer = partial(
    compared_pair, first="response1", second="response2", preference="overall_preference", prompt="context",
    prefers_first=-3, prefers_second=3,
)  # fmt: skip
ranked = partial(ranked_pairs, answers="answers", text="answer", score="rank", best="lowest")


@pytest.mark.parametrize(
    ("source", "row", "differences"),
    [
        (ultrafeedback_pair, ULTRAFEEDBACK, [1.5]),
        (shp_pair, SHP, [math.log(3)]),
        (helpsteer, HELPSTEER, [2.0]),
        (ranked, RANKED, [1.0, 2.0, 1.0]),
        (partial(ranked, pairs="best_worst"), RANKED, [2.0]),
        (stack_exchange_pairs, STACK, [4.0]),
    ],
)
def test_a_number_multiplies_the_difference_of_the_scores(source, row, differences):
    made = source(row, columns={"weight": 2.0, "offset": 0.5, "label_noise": 1.0})
    for pair, difference in zip(made if isinstance(made, list) else [made], differences, strict=True):
        assert (pair["weight"], pair["offset"]) == pytest.approx((2 * difference, difference / 2))
        assert pair["label_noise"] == pytest.approx(1 / (1 + math.exp(difference)))
    plain = source(row)
    assert not {"weight", "offset", "label_noise"} & (plain[0] if isinstance(plain, list) else plain).keys()


def test_label_noise_of_shp_is_the_share_of_votes():
    assert shp_pair(SHP, columns={"label_noise": 1})["label_noise"] == pytest.approx(2 / 8)


def test_a_tie_is_kept_with_label_noise_one_half():
    tie = HELPSTEER | {"overall_preference": 0}
    assert helpsteer(tie) == []
    assert helpsteer(tie, columns={"offset": 1.0}) == []
    assert helpsteer(tie, columns={"label_noise": 0.7})["label_noise"] == 0.5


@pytest.mark.parametrize(
    ("source", "row"),
    [
        (hh_pair, HH),
        (swift_pair, {"messages": MESSAGES, "rejected_response": "No"}),
        (ultrafeedback_pair, ULTRAFEEDBACK),
        (shp_pair, SHP),
        (stack_exchange_pairs, STACK),
        (helpsteer, HELPSTEER),
        (ranked, RANKED),
    ],
)
def test_a_name_reads_a_column_of_the_row(source, row):
    made = source(row | {"trust": 0.25}, columns={"weight": "trust", "offset": None})
    for pair in made if isinstance(made, list) else [made]:
        assert pair["weight"] == 0.25
        assert "offset" not in pair
    with pytest.raises(KeyError, match="trust"):
        source(row, columns={"weight": "trust"})


def test_a_scale_needs_scores():
    with pytest.raises(
        InvalidRow, match=r"columns.offset=0.5 multiplies a difference of scores, and this source has no"
    ):
        hh_pair(HH, columns={"offset": 0.5})


def test_a_column_must_be_one_of_the_three(tokenizer):
    with pytest.raises(
        UserError, match=r"data.source.columns: 'wieght' is not a numeric column: weight, offset, label_"
    ):
        data = PreferenceDataModule("x.jsonl", tokenizer=tokenizer, source=partial(hh_pair, columns={"wieght": "a"}))
        check_columns(DPO(), data.columns)


def test_label_noise_reaches_the_batch(tokenizer):
    rows = [{"prompt": f"{n}:", "chosen": " yes", "rejected": " no", "doubt": n % 2 / 4} for n in range(8)]
    source = partial(jsonl_pair, label_noise="doubt")
    data = PreferenceDataModule(rows=rows, tokenizer=tokenizer, source=source, val_fraction=0.5, batch_size=4)
    data.setup()
    assert data.columns == {"label_noise"}
    noise = next(iter(data.val_dataloader())).label_noise
    assert set(noise.tolist()) == {0.0, 0.25}
    without = PreferenceDataModule(rows=rows, tokenizer=tokenizer, val_fraction=0.5, batch_size=4)
    without.setup()
    assert next(iter(without.val_dataloader())).label_noise is None


@pytest.mark.parametrize(
    ("value", "reason"), [(0.6, r"\[0, 0.5\], got 0.6; .* swap the two answers"), (-0.1, "got -0.1")]
)
def test_label_noise_above_one_half_is_a_swapped_label(value, reason, tokenizer):
    rows = [{"prompt": "a:", "chosen": " yes", "rejected": " no", "doubt": value}]
    data = PreferenceDataModule(rows=rows, tokenizer=tokenizer, source=partial(jsonl_pair, label_noise="doubt"))
    with pytest.raises(UserError, match=f"label_noise must be in .*{reason}"):
        data.setup()
