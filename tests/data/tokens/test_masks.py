"""Token masks of a row: what they exclude is not scored, and has no gradient."""

from functools import partial

import pytest
import torch

from lightning_dpo import PreferenceDataModule, UserError
from lightning_dpo.data.sources import jsonl_pair
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import TwoWay, pair_logps
from tests.support.chat import user
from tests.support.models import make_llama

TEXT = {"prompt": "the film", "chosen": " was good", "rejected": " was better and better"}
SOURCE = partial(jsonl_pair, chosen_mask="keep", rejected_mask="keep_other")


def data_of(tokenizer, row: dict, layout: str = "padded", **options) -> PreferenceDataModule:
    rows = [row | {"prompt": f"{n} {row['prompt']}"} if isinstance(row["prompt"], str) else row for n in range(2)]
    data = PreferenceDataModule(
        rows={"train": rows, "validation": rows}, source=SOURCE, tokenizer=tokenizer, layout=layout,
        drop_seen_prompts=False, **options,
    )  # fmt: skip
    data.setup()
    return data


def lengths(tokenizer) -> tuple[int, int]:
    """Tokens of the two answers."""
    plain = PreferenceDataModule(rows=[TEXT, TEXT | {"prompt": "b"}], tokenizer=tokenizer, val_fraction=0.5)
    plain.setup()
    return len(plain.val_pairs[0]["chosen_ids"]), len(plain.val_pairs[0]["rejected_ids"])


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_only_selected_tokens_are_scored_and_have_a_gradient(tokenizer, layout):
    chosen, rejected = lengths(tokenizer)
    masks = {"keep": [1] + [0] * (chosen - 1), "keep_other": [False] * (rejected - 1) + [True]}
    batch = next(iter(data_of(tokenizer, TEXT | masks, layout).val_dataloader()))
    assert batch.completion_lengths.tolist() == [1.0] * 4
    model = make_llama(attn_implementation="eager")
    hidden = []

    def keep(_, __, output):
        if output[0].requires_grad:  # not when the head is tried
            output[0].retain_grad()
            hidden.append(output[0])

    model.model.register_forward_hook(keep)
    if layout == "padded":
        pairs = pair_logps(completion_logps(model, batch), None, batch)
        TwoWay(1.0).losses(pairs).sum().backward()
        (states,) = hidden
        nonzero = states.grad.flatten(0, -2).abs().sum(-1).nonzero()[:, 0]
        assert nonzero.tolist() == sorted(set(batch.score_index.tolist()))
    # The scored tokens are the first of the chosen answer and the last of the other.
    targets = batch.target_ids.tolist()
    assert targets.count(tokenizer.eos_token_id) == 2
    assert len(targets) == 4


def test_a_mask_of_all_tokens_changes_nothing(tokenizer):
    chosen, rejected = lengths(tokenizer)
    masks = {"keep": [1] * chosen, "keep_other": [1] * rejected}
    model = make_llama()
    with torch.no_grad():
        for kept, plain in zip(
            *(
                completion_logps(model, next(iter(data_of(tokenizer, row).val_dataloader()))).sums.split(2)
                for row in (TEXT | masks, TEXT | {"keep": None, "keep_other": None})
            ),
            strict=True,
        ):
            assert torch.equal(kept, plain)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ([1, 0], r"chosen_mask has 2 values, and the answer \d+ tokens, its end token included"),
        ([0, 0], "chosen_mask selects no token"),
        ([2, 0], "chosen_mask must be a list of 0 and 1, one per token of the answer"),
        ("10", "chosen_mask must be a list of 0 and 1"),
        ([], "chosen_mask must be a list of 0 and 1"),
    ],
)
def test_a_mask_that_does_not_fit_names_the_row(tokenizer, mask, reason):
    with pytest.raises(UserError, match=f"(train|validation):0: {reason}"):
        data_of(tokenizer, TEXT | {"keep": mask, "keep_other": None})


def test_the_mask_and_the_scored_turns_both_apply(tokenizer):
    """With messages, what comes before the last turn is not scored, whatever the mask says."""
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    turns = [{"role": "assistant", "content": "good"}, user("and"), {"role": "assistant", "content": "better"}]
    row = {"prompt": [user("the film")], "chosen": turns, "rejected": [{"role": "assistant", "content": "cake"}]}
    plain = data_of(tokenizer, row | {"keep": None, "keep_other": None}).val_pairs[0]["chosen_scored"]
    assert not all(plain)
    masked = data_of(tokenizer, row | {"keep": [1] * len(plain), "keep_other": None}).val_pairs[0]["chosen_scored"]
    assert masked == plain
    first = [1] * plain.index(True) + [0] * (len(plain) - plain.index(True))
    with pytest.raises(UserError, match="chosen_mask selects no token of a scored turn"):
        data_of(tokenizer, row | {"keep": first, "keep_other": None})
