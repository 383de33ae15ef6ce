"""Log-probs, loss and gradient of whole batches against TRL's trainer, policy and reference being different models."""

import pytest
import torch
from datasets import Dataset

from lightning_dpo.batch import TokenizedPair
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, IPO, Hinge, pair_logps
from tests.support.models import make_llama
from tests.support.pairs import padded_batch
from tests.support.trl_trainer import trl_trainer

PAIRS = Dataset.from_dict(
    {
        "prompt": ["the film", "where is the cake", "Question:", "the answer"],
        "chosen": [" was good", " here", " yes and no and the film", " is good"],
        "rejected": [" was better and better", " there", " no", " is the answer"],
    }
)


@pytest.mark.parametrize(
    ("loss", "options"),
    [(DPO(0.3), {"loss_type": "sigmoid"}), (IPO(0.3), {"loss_type": "ipo"}), (Hinge(0.3), {"loss_type": "hinge"})],
)
def test_loss_gradient_and_rewards(loss, options, tmp_path, tokenizer):
    theirs, ours = make_llama(seed=1), make_llama(seed=1)
    trainer = trl_trainer(tmp_path, tokenizer, PAIRS, theirs, make_llama(seed=2), beta=0.3, **options)
    theirs = trainer.model.train()
    expected = trainer.compute_loss(theirs, next(iter(trainer.get_train_dataloader())))
    expected.backward()

    rows = Tokenization(tokenizer, 100, "drop").tokenize(PAIRS)
    batch = padded_batch(
        [TokenizedPair(n, row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for n, row in enumerate(rows)]
    )
    with torch.no_grad():
        reference = completion_logps(make_llama(seed=2), batch)
    logps = pair_logps(completion_logps(ours, batch), reference, batch)
    result = loss(logps)
    result.losses.mean().backward()

    torch.testing.assert_close(result.losses.mean(), expected, rtol=1e-5, atol=1e-5)
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    metrics = trainer._metrics["train"]
    figures = {
        "rewards/chosen": result.chosen_rewards, "rewards/rejected": result.rejected_rewards,
        "logps/chosen": logps.chosen, "logps/rejected": logps.rejected,
    }  # fmt: skip
    for name, values in figures.items():
        assert values.mean().item() == pytest.approx(metrics[name][0], rel=1e-4)
