"""Datasets of preference pairs: one function per row for each, and where rows come from."""

from lightning_dpo.data.sources.compared import compared_pair
from lightning_dpo.data.sources.hh import hh_pair
from lightning_dpo.data.sources.hub import HubRows
from lightning_dpo.data.sources.jsonl import jsonl_pair
from lightning_dpo.data.sources.ranked import ranked_pairs
from lightning_dpo.data.sources.recognized import recognized_pair
from lightning_dpo.data.sources.shp import shp_pair
from lightning_dpo.data.sources.stack_exchange import stack_exchange_pairs
from lightning_dpo.data.sources.swift import swift_pair
from lightning_dpo.data.sources.ultrafeedback import ultrafeedback_pair

__all__ = [
    "HubRows", "compared_pair", "hh_pair", "jsonl_pair", "ranked_pairs", "recognized_pair", "shp_pair",
    "stack_exchange_pairs", "swift_pair", "ultrafeedback_pair",
]  # fmt: skip
