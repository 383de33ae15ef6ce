"""Check that a resumed run continues with the same pairs in the same order."""

from collections.abc import Mapping
from typing import Any

from lightning_dpo.errors import UserError

# Keys that older checkpoints do not have.
_DEFAULTS = {"group_by_prompt": False}


def check_same_pairs(now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a run has the pairs, and their order, of a checkpoint.

    Args:
        now: Result of `PreferenceDataModule.state_dict`: settings that determine the order, and digests of the content.
        saved: The same in the checkpoint.

    Raises:
        UserError: They differ; the message contains the difference.
    """
    saved = _DEFAULTS | dict(saved)
    digests = saved.pop("digests", {})
    changed = [f"{name} was {was} and is {now[name]}" for name, was in saved.items() if was != now[name]]
    if changed:
        raise UserError(f"the checkpoint has another order of pairs: {', '.join(changed)}; restore the setting")
    for what, was in digests.items():
        if was != now["digests"][what]:
            raise UserError(
                f"the checkpoint was trained with another {what}: its digest was {was} and is {now['digests'][what]}; "
                f"resume with the same {what}"
            )
