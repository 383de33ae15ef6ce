"""`val/kl`, which is estimated on samples, against the KL over all answers, which the reviews world lets one sum up."""

import lightning
import torch

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.losses import DPO
from lightning_dpo.reviews import ReviewRows, world
from lightning_dpo.reviews.policy import TinyReviewer
from tests.support.exact_kl import exact_kl
from tests.support.training import trainer_for

LENGTH = 5


class Exact(lightning.Callback):
    """Collects estimate, standard error and the exact KL after every validation."""

    def __init__(self) -> None:
        self.found = []

    def on_validation_end(self, trainer, pl_module):
        tokenizer = trainer.datamodule.tokenizer
        exact = [
            exact_kl(pl_module.policy, pl_module.reference.model, prompt, LENGTH, tokenizer.eos_token_id, least=1e-5)
            for prompt in tokenizer(world.prompts()).input_ids
        ]
        estimate, error = (float(trainer.callback_metrics[name]) for name in ("val/kl", "val/kl_stderr"))
        self.found.append((estimate, error, sum(exact) / len(exact)))


def test_val_kl_is_the_exact_kl_within_three_standard_errors_at_three_stages(tmp_path):
    reviewer = TinyReviewer(teaching_steps=100)
    data = PreferenceDataModule(
        rows=ReviewRows(pairs=1500, val_pairs=50),
        tokenizer=reviewer.tokenizer(), batch_size=64, max_length=64, drop_seen_prompts=False,
    )  # fmt: skip
    exact = Exact()
    samples = Samples(str(tmp_path), answers=400, per_prompt=400, max_new_tokens=LENGTH, shown=0, batch_size=400)
    module = DPOModule(reviewer.policy(), DPO(0.5), optimizer=lambda weights: torch.optim.AdamW(weights, lr=1e-3))
    trainer_for(tmp_path, callbacks=[samples, exact], max_epochs=3).fit(module, data)
    assert len(exact.found) == 3
    for estimate, error, known in exact.found:
        assert abs(estimate - known) < 3 * error
        assert error < 0.2 * known
    assert len({round(known, 2) for _, _, known in exact.found}) == 3
