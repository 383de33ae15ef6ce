"""Log-probs, loss and gradient of whole batches against TRL, policy and reference being different models."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from lightning_dpo.batch import TokenizedPair
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import SFT, pair_logps
from tests.support.losses import BETA, CASES
from tests.support.models import make_llama
from tests.support.pair_logps import random_logps
from tests.support.pairs import padded_batch
from tests.support.trl_trainer import trl_trainer

PAIRS = Dataset.from_dict(
    {
        "prompt": ["the film", "where is the cake", "Question:", "the answer"],
        "chosen": [" was good", " here", " yes and no and the film", " is good"],
        "rejected": [" was better and better", " there", " no", " is the answer"],
    }
)
DEFAULTS = {
    "loss_type": ["sigmoid"], "loss_weights": None, "label_smoothing": 0.0, "ld_alpha": None,
    "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5,
}  # fmt: skip
IN_DPO_TRAINER = [name for name, case in CASES.items() if case.trl and "loss_type" in case.trl]


@pytest.fixture(scope="module")
def trl(tokenizer, tmp_path_factory):
    """TRL's trainer, its batch of the four pairs, and the same batch of this package."""
    folder = tmp_path_factory.mktemp("trl")
    trainer = trl_trainer(folder, tokenizer, PAIRS, make_llama(seed=1), make_llama(seed=2), beta=BETA)
    rows = Tokenization(tokenizer, 100, "drop").tokenize(PAIRS)
    pairs = [TokenizedPair(n, row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for n, row in enumerate(rows)]
    return trainer, next(iter(trainer.get_train_dataloader())), padded_batch(pairs)


@pytest.mark.parametrize("name", IN_DPO_TRAINER)
def test_loss_gradient_and_rewards(name, trl):
    trainer, their_batch, batch = trl
    settings = DEFAULTS | CASES[name].trl
    trainer.loss_types = settings.pop("loss_type")
    trainer.loss_weights = settings.pop("loss_weights") or [1.0]
    for key, value in settings.items():
        setattr(trainer, key, value)
    theirs, ours = trainer.model.train(), make_llama(seed=1)
    theirs.zero_grad()
    trainer._metrics["train"].clear()
    expected = trainer.compute_loss(theirs, their_batch)
    expected.backward()

    loss = CASES[name].loss
    with torch.no_grad():
        reference = completion_logps(make_llama(seed=2), batch, loss.needs_tokens)
    logps = pair_logps(completion_logps(ours, batch, loss.needs_tokens), reference, batch)
    result = loss(logps)
    result.losses.mean().backward()

    torch.testing.assert_close(result.losses.mean(), expected, rtol=1e-5, atol=1e-5)
    for (key, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        largest = max(1.0, float(other.grad.abs().max()))
        torch.testing.assert_close(
            mine.grad, other.grad, rtol=1e-3, atol=1e-5 * largest, msg=lambda m, key=key: f"{key}: {m}"
        )
    metrics = trainer._metrics["train"]
    figures = {"logps/chosen": logps.chosen, "logps/rejected": logps.rejected}
    if name in ("dpo", "ipo", "hinge", "robust", "nca", "aot", "rpo"):  # their rewards are β times log-ratios for all
        figures |= {"rewards/chosen": result.chosen_rewards, "rewards/rejected": result.rejected_rewards}
    for key, values in figures.items():
        if name != "ld_dpo":  # their log-probs are the weighted ones
            assert values.mean().item() == pytest.approx(metrics[key][0], rel=1e-4)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.trl and "loss_type" not in case.trl])
def test_losses_of_trls_other_trainers(name):
    """Value and gradient of the functions of `CPOTrainer` and `ORPOTrainer`, which receive log-probs."""
    case, found, expected = CASES[name], random_logps(offset=False), random_logps(offset=False)
    settings = SimpleNamespace(
        beta=case.trl.get("orpo", BETA), simpo_gamma=0.5, loss_type=case.trl.get("cpo"), label_smoothing=0.0, alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    leaves = [side.sums.requires_grad_() for pairs in (found, expected) for side in pairs.policy]
    chosen, rejected = (
        (side.sums / side.lengths if name in ("simpo", "orpo") else side.sums) for side in expected.policy
    )
    if name == "orpo":
        losses = SFT().losses(expected) - ORPOTrainer.odds_ratio_loss(settings, chosen, rejected)[0]
    else:
        losses = CPOTrainer.cpo_loss(settings, chosen, rejected)[0]
        losses = losses + case.trl.get("sft", 0.0) * SFT().losses(expected)
    result = case.loss.losses(found)
    (result.sum() + losses.sum()).backward()
    torch.testing.assert_close(result, losses, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(leaves[:2], leaves[2:], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_aot_in_two_micro_batches_is_another_loss():
    """Why `whole_step` losses are refused with accumulation: TRL's form depends on it."""
    loss, pairs = CASES["aot"].loss, random_logps(8, offset=False)
    halves = [pairs.with_tensors(value[part] for value in pairs.tensors()) for part in (slice(4), slice(4, 8))]
    parts = torch.cat([loss.losses(half) for half in halves]).mean()
    assert (loss.losses(pairs).mean() - parts).abs() > 0.01
