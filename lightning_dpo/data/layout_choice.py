"""Which layout a policy's batches have: the one that was asked for, or the shared one where it changes nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightning_dpo.data.pairs import MicroBatch
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, PaddedLayout, SharedLayout

log = logging.getLogger(__name__)

LayoutName = Literal["auto", "shared", "padded"]

TRIED = 2  # pairs by which layouts are compared: one alone would not show whether prompts see each other


@dataclass(frozen=True)
class LayoutChoice:
    """Chooses between the two layouts.

    Args:
        asked: `auto`, `shared` or `padded`.
        pad_token_id: See `PaddedLayout`.
        chosen_only: Lay out chosen completions alone.
    """

    asked: LayoutName
    pad_token_id: int
    chosen_only: bool

    def __call__(self, module: object, longest: Callable[[], MicroBatch]) -> Layout:
        """The layout for batches of `module`.

        Args:
            module: Its method `share_prefixes`, see `DPOModule`, is asked; one without takes what was asked for.
            longest: Makes a micro-batch of the longest pairs, on which the two are compared.

        Raises:
            UserError: `shared` was asked for, and the policy cannot.
        """
        padded, shared = PaddedLayout(self.pad_token_id, self.chosen_only), SharedLayout(self.chosen_only)
        share = getattr(module, "share_prefixes", None)
        if self.asked == "padded" or share is None:
            return shared if self.asked == "shared" else padded
        pairs = longest()
        reason = share(padded(pairs), shared(pairs))
        if reason is None:
            log.info("Each prompt of a forward pass is computed once (data.layout=shared).")
            return shared
        if self.asked == "shared":
            raise UserError(f"data.layout=shared: {reason}; use data.layout=padded")
        log.warning("Each prompt is computed once per answer (data.layout=padded): %s.", reason)
        return padded
