"""Losses on preference pairs: `PairLogps` in, `PreferenceLoss` out; one file per family."""

from lightning_dpo.losses.dpo import DPO
from lightning_dpo.losses.hinge import Hinge
from lightning_dpo.losses.interface import (
    ImplicitRewards,
    NotComputed,
    PairLogps,
    PreferenceLoss,
    PreferenceLossFunction,
    pair_logps,
)
from lightning_dpo.losses.ipo import IPO
from lightning_dpo.losses.sft import SFT

__all__ = [
    "DPO", "IPO", "SFT", "Hinge", "ImplicitRewards", "NotComputed", "PairLogps", "PreferenceLoss",
    "PreferenceLossFunction", "pair_logps",
]  # fmt: skip
