"""Tiny models, made in code."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 300
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
"""Fields of a config that most architectures have."""


def make_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    """Two layers with weights large enough that mistakes show."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings | changes))
