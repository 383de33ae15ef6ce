"""Whether a resumed run draws the pairs that the checkpoint's run would have drawn."""

from collections.abc import Mapping
from typing import Any

from lightning_dpo.errors import UserError

# Older checkpoints lack it.
_DEFAULTS = {"group_by_prompt": False}


def check_same_pairs(now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse other pairs, or another order of them, than a checkpoint was taken with.

    Args:
        now: What `PreferenceDataModule.state_dict` gives: settings that decide the order, and digests of the content.
        saved: The same, in the checkpoint.

    Raises:
        UserError: Names what differs.
    """
    saved = _DEFAULTS | dict(saved)
    digests = saved.pop("digests", {})
    changed = [f"{name} was {was} and is {now[name]}" for name, was in saved.items() if was != now[name]]
    if changed:
        raise UserError(f"the checkpoint belongs to another order of pairs: {', '.join(changed)}; set it back")
    for what, was in digests.items():
        if was != now["digests"][what]:
            raise UserError(
                f"the checkpoint was trained with another {what}: its digest was {was} and is {now['digests'][what]}; "
                f"resume with the {what} of the run's start"
            )
