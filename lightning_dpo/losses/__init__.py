"""Losses on preference pairs: `PairLogps` in, `PreferenceLoss` out; one file per family."""

from lightning_dpo.losses.absolute import BCO, NCA, SPPO, APODown, APOZero
from lightning_dpo.losses.divergences import AlphaDivergence, ForwardKL, JensenShannon
from lightning_dpo.losses.dpo import DPO
from lightning_dpo.losses.hinge import Hinge
from lightning_dpo.losses.interface import ImplicitRewards, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.losses.ipo import IPO
from lightning_dpo.losses.margins import DPOP, ODPO, RDPO
from lightning_dpo.losses.modifiers import LDDPO, LengthNormalized, Modifier, WeightedSum, WithSFT
from lightning_dpo.losses.noisy_labels import EXO, Robust
from lightning_dpo.losses.pairs import PairLogps, pair_logps
from lightning_dpo.losses.sft import SFT
from lightning_dpo.losses.whole_step import AOT, AOTUnpaired, BetaDPO
from lightning_dpo.losses.without_reference import CPO, ORPO, SimPO, TwoWay

__all__ = [
    "AOT", "BCO", "CPO", "DPO", "DPOP", "EXO", "IPO", "LDDPO", "NCA", "ODPO", "ORPO", "RDPO", "SFT", "SPPO",
    "AOTUnpaired", "APODown", "APOZero", "AlphaDivergence", "BetaDPO", "ForwardKL", "Hinge", "ImplicitRewards",
    "JensenShannon", "LengthNormalized", "Modifier", "PairLogps", "PreferenceLoss",
    "PreferenceLossFunction", "Robust", "SimPO", "TwoWay", "WeightedSum", "WithSFT", "pair_logps",
]  # fmt: skip
