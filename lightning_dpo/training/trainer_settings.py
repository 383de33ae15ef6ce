"""Arguments of Lightning's Trainer that a run derives from other settings, and those settings."""

_STEPS = "set trainer.val_check_steps, in optimizer steps, or leave it out for four validations"

DERIVED = {
    "accumulate_grad_batches": "is derived from data.pairs_per_step and data.batch_size; set those",
    "val_check_interval": f"counts micro-batches; {_STEPS}",
    "check_val_every_n_epoch": f"counts epochs; {_STEPS}",
    "overfit_batches": "replaces the sampler, which decides what an optimizer step is; set data.max_pairs and "
    "trainer.max_epochs",
    "logger": "is derived from the group logger; choose logger=csv, logger=[csv,tensorboard], ..., or logger=none",
    "callbacks": "is derived from the group callbacks; add one with +callbacks.NAME._target_=..., or remove one with "
    "callbacks.NAME=null",
}
