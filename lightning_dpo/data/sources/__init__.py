"""Data sets of preference pairs, one function each, and how their files and hub splits are read."""

from lightning_dpo.data.sources.hh import hh_pairs
from lightning_dpo.data.sources.jsonl import jsonl_pairs
from lightning_dpo.data.sources.shp import shp_pairs
from lightning_dpo.data.sources.stack_exchange import stack_exchange_pairs
from lightning_dpo.data.sources.ultrafeedback import ultrafeedback_pairs

__all__ = ["hh_pairs", "jsonl_pairs", "shp_pairs", "stack_exchange_pairs", "ultrafeedback_pairs"]
