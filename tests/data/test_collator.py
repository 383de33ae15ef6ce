import pytest
import torch
from torch.utils.data import DataLoader

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.data import PreferenceCollator
from tests.support.chat import assistant, chat_tokenizer, user
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for

ROWS = [{"prompt": f"Q{n}:", "chosen": " yes" * (n % 3 + 1), "rejected": f" no {n}"} for n in range(12)]


def test_a_loader_of_ones_own_trains_like_the_data_module(tmp_path, tokenizer):
    """In an order that is the same: one step of all pairs."""
    weights = []
    loader = DataLoader(ROWS, batch_size=12, collate_fn=PreferenceCollator(tokenizer))
    data = PreferenceDataModule(
        rows={"train": ROWS, "validation": ROWS[:2]}, tokenizer=tokenizer, batch_size=12, drop_seen_prompts=False
    )
    for given in ({"train_dataloaders": loader}, {"datamodule": data}):
        module = DPOModule(make_llama(), optimizer=sgd)
        trainer_for(tmp_path).fit(module, **given)
        weights.append(torch.nn.utils.parameters_to_vector(module.policy.parameters()))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_accumulated_micro_batches_are_one_large_one(tmp_path, tokenizer):
    weights = []
    for size in (12, 4):
        collate = PreferenceCollator(tokenizer, micro_batches_per_step=12 // size)
        module = DPOModule(make_llama(), optimizer=sgd)
        loader = DataLoader(ROWS, batch_size=size, collate_fn=collate)
        trainer_for(tmp_path, accumulate_grad_batches=12 // size).fit(module, loader)
        weights.append(torch.nn.utils.parameters_to_vector(module.policy.parameters()))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_another_accumulation_than_that_of_the_trainer_is_rejected(tmp_path, tokenizer):
    loader = DataLoader(ROWS, batch_size=4, collate_fn=PreferenceCollator(tokenizer))
    with pytest.raises(UserError, match="belong to optimizer steps of 4 pairs, and the Trainer makes steps of 12: use"):
        trainer_for(tmp_path, accumulate_grad_batches=3).fit(DPOModule(make_llama()), loader)


def test_messages(tokenizer):
    rows = [{"chosen": [user("Q"), assistant(text)], "rejected": [user("Q"), assistant("no")]} for text in ("a", "b")]
    batch = PreferenceCollator(chat_tokenizer(tokenizer))(rows)
    assert batch.weight.tolist() == [1, 1]
    assert float(batch.step_pairs) == 2


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"prompt": "Q:", "chosen": " a", "rejected": " a"}, {}, "pair 0 of a batch: both answers are identical"),
        ({"prompt": "Q:", "chosen": " a"}, {}, "pair 0 of a batch: column 'rejected' is missing"),
        (ROWS[0], {"max_length": 3, "on_overlong": "error"}, "pair 0 of a batch has more than max_length=3 tokens"),
    ],
)
def test_an_invalid_row_is_named(tokenizer, row, options, message):
    with pytest.raises(UserError, match=message):
        PreferenceCollator(tokenizer, **options)([row])
