"""What the Trainer and its data contribute to the identity of a training: settings and digests, by kind and name."""

from lightning import Trainer

from lightning_dpo.training.trainer_attributes import datamodule_of


def trainer_facts(trainer: Trainer) -> dict[str, dict[str, str]]:
    """Precision and clipping."""
    clipping = {"trainer.gradient_clip_val": str(trainer.gradient_clip_val or None)}
    if trainer.gradient_clip_val:
        algorithm = trainer.gradient_clip_algorithm or "norm"  # Lightning's default
        clipping["trainer.gradient_clip_algorithm"] = str(getattr(algorithm, "value", algorithm))
    return {"precision": {"trainer.precision": str(trainer.precision)}, "clipping": clipping}


def data_facts(trainer: Trainer) -> dict[str, dict[str, str]]:
    """The facts of the data module, if it has any: pairs, tokenizer, and the order of the pairs."""
    return getattr(datamodule_of(trainer), "facts", {})


def layout_facts(trainer: Trainer) -> dict[str, str]:
    """The layout of batches, once it has been chosen."""
    layout = getattr(datamodule_of(trainer), "layout_name", None)
    return {} if layout is None else {"data.layout": layout}
