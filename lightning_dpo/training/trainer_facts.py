"""What the Trainer and its data contribute to the identity of a training: settings and digests, by kind and name."""

from lightning import Trainer

from lightning_dpo.checkpoints.identity import Identity
from lightning_dpo.training.trainer_attributes import datamodule_of


def start_identity(identity: Identity, trainer: Trainer) -> None:
    """Forget the checkpoint of an earlier `fit`, and add precision, clipping and the facts of the data module.

    Lightning restores the checkpoint of this `fit` later.
    """
    identity.resumes({})
    for kind in ("precision", "clipping", "data", "tokenizer", "order", "layout"):
        identity.facts.pop(kind, None)
    identity.add("precision", {"trainer.precision": str(trainer.precision)})
    clip = float(trainer.gradient_clip_val) if trainer.gradient_clip_val else None
    clipping = {"trainer.gradient_clip_val": str(clip)}
    if clip is not None:
        algorithm = trainer.gradient_clip_algorithm or "norm"  # Lightning's default
        clipping["trainer.gradient_clip_algorithm"] = str(getattr(algorithm, "value", algorithm))
    identity.add("clipping", clipping)
    data = datamodule_of(trainer)
    if not getattr(data, "auto_batch_size", False):  # otherwise, when it has been chosen
        add_order(identity, trainer)
    for kind, facts in getattr(data, "facts", {}).items():
        if kind != "order":
            identity.add(kind, facts)


def add_order(identity: Identity, trainer: Trainer) -> None:
    """Add what determines the position in an epoch, once the batch size has been chosen.

    Raises:
        UserError: It differs from that of the checkpoint.
    """
    order = getattr(datamodule_of(trainer), "facts", {}).get("order", {})
    identity.add("order", {"accumulate_grad_batches": str(trainer.accumulate_grad_batches), **order})


def add_layout(identity: Identity, trainer: Trainer) -> None:
    """Add the layout of batches, once it has been chosen.

    Raises:
        UserError: It differs from that of the checkpoint.
    """
    if layout := getattr(datamodule_of(trainer), "layout_name", None):
        identity.add("layout", {"data.layout": layout})
