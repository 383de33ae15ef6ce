"""What the Trainer and its data contribute to the identity of a training: settings and digests, by kind and name."""

from lightning import Trainer

from lightning_dpo.checkpoints.identity import Identity
from lightning_dpo.training.trainer_attributes import datamodule_of


def start_identity(identity: Identity, trainer: Trainer) -> None:
    """Forget the checkpoint of an earlier `fit`, and add precision, clipping and the facts of the data module.

    Lightning restores the checkpoint of this `fit` later.
    """
    identity.resumes({})
    identity.add("precision", {"trainer.precision": str(trainer.precision)})
    clipping = {"trainer.gradient_clip_val": str(trainer.gradient_clip_val or None)}
    if trainer.gradient_clip_val:
        algorithm = trainer.gradient_clip_algorithm or "norm"  # Lightning's default
        clipping["trainer.gradient_clip_algorithm"] = str(getattr(algorithm, "value", algorithm))
    identity.add("clipping", clipping)
    for kind, facts in getattr(datamodule_of(trainer), "facts", {}).items():
        identity.add(kind, facts)


def add_layout(identity: Identity, trainer: Trainer) -> None:
    """Add the layout of batches, once it has been chosen.

    Raises:
        UserError: It differs from that of the checkpoint.
    """
    if layout := getattr(datamodule_of(trainer), "layout_name", None):
        identity.add("layout", {"data.layout": layout})
