"""Two devices with accumulation against plain PyTorch: optimizer steps of 8 and 3 pairs with every loss."""

import json

import pytest
import torch

from lightning_dpo import PreferenceDataModule
from lightning_dpo.data.steps.sampler import MicroBatchRows
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import pair_logps
from tests.support.losses import CASES
from tests.support.models import make_llama
from tests.support.pairs import padded_batch
from tests.support.ranks import on_ranks
from tests.support.train_on_ranks import fit_every_loss, slow_sgd


@pytest.fixture(scope="module")
def pairs_of_file(tmp_path_factory, tokenizer):
    """A file of 22 pairs, of which 11 are for training, and a data module that has read it."""
    rows = [
        {"prompt": f"Question {n}:", "chosen": " yes" * (n % 5 + 1), "rejected": f" no {n}" * (n % 3 + 1)}
        for n in range(22)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = PreferenceDataModule(str(path), tokenizer=tokenizer, batch_size=11, val_fraction=0.5)
    data.setup()
    return path, data


@pytest.fixture(scope="module")
def on_two(pairs_of_file, tokenizer, tmp_path_factory):
    """What each of two ranks returns, by loss."""
    return on_ranks(2, fit_every_loss, tmp_path_factory.mktemp("ranks"), pairs_of_file[0], tokenizer, timeout=250)


def loss_of(loss, policy, reference, pairs):
    """The mean over `pairs`, all in one batch."""
    batch = padded_batch(pairs, chosen_only=not loss.needs_rejected)
    with torch.no_grad():
        of_reference = completion_logps(reference, batch, loss.needs_tokens)
    logps = completion_logps(policy, batch, loss.needs_tokens)
    return loss(pair_logps(logps, of_reference if loss.needs_reference else None, batch)).losses.mean()


@pytest.mark.parametrize("name", CASES)
def test_weights_and_validation_are_those_of_plain_pytorch(name, on_two, pairs_of_file):
    first, second = (rank[name] for rank in on_two)
    loss, policy, reference = CASES[name].loss, make_llama(), make_llama(seed=1)
    optimizer, data = slow_sgd(policy.parameters()), pairs_of_file[1]
    train, val = ({pair.index: pair for pair in data_pairs(data, side)} for side in ("train", "val"))
    accumulate = 1 if loss.whole_step else 2
    for step in (slice(0, accumulate), slice(accumulate, None)):
        rows = sorted(row for rank in (first, second) for micro_batch in rank["rows"][step] for row in micro_batch)
        optimizer.zero_grad()
        loss_of(loss, policy, reference, [train[row] for row in rows]).backward()
        optimizer.step()
    assert sorted(row for rank in (first, second) for some in rank["rows"] for row in some) == list(range(11))
    for (key, expected), start in zip(policy.named_parameters(), make_llama().parameters(), strict=True):
        change, expected_change = torch.tensor(first["weights"][key]) - start, expected.detach() - start
        torch.testing.assert_close(
            change, expected_change, rtol=1e-3, atol=1e-3 * float(expected_change.abs().max()), msg=key
        )
    with torch.no_grad():
        expected = loss_of(loss, policy, reference, list(val.values())).item()
    assert first["metrics"]["val/loss"] == pytest.approx(expected, rel=1e-4)
    assert first["metrics"]["val/pairs"] == 11


def data_pairs(data, side):
    """The tokenized pairs of a data module."""
    loader = data.train_dataloader() if side == "train" else data.val_dataloader()
    pairs = loader._batches.dataset
    return pairs[MicroBatchRows(list(range(11)), [True] * 11, 11, 1)].pairs
