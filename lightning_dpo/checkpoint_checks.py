"""What a checkpoint must have in common with the module that goes on from it."""

from collections.abc import Collection, Mapping

from lightning_dpo.errors import UserError


def check_settings(now: Mapping[str, str], saved: Mapping[str, str], names: Collection[str]) -> None:
    """Refuse to go on with another loss or adapter, or on another model, than a checkpoint was trained with.

    Args:
        now: What this module is made of.
        saved: What the checkpoint says.
        names: What of that matters.

    Raises:
        UserError: Something differs.
    """
    changed = [f"{name} {saved[name]} instead of {now.get(name)}" for name in names if saved[name] != now.get(name)]
    if changed:
        raise UserError(f"the checkpoint was trained with {', '.join(changed)}: set that")


def check_tensors(trained: Collection[str], found: Collection[str]) -> None:
    """Refuse a checkpoint of another adapter.

    Args:
        trained: Names of the tensors that are trained.
        found: Those in the checkpoint.

    Raises:
        UserError: They differ.
    """
    if different := set(trained) ^ set(found):
        raise UserError(
            f"the checkpoint is of another adapter: it differs in {len(different)} tensors, the first "
            f"of them {min(different)}; give the adapter.* that it was trained with"
        )
