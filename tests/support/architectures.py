"""Small random models of the architectures that people train, with weights large enough that mistakes show."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lightning_dpo.models.preparation import ready_policy
from tests.support.models import VOCABULARY

WINDOW = 6
_SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "pad_token_id": 0,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_CAPPED = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0}
ARCHITECTURES = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": _MIXED | {"use_sliding_window": True},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": _EXPERTS | {"head_dim": 8},
    "mixtral": _EXPERTS | {"sliding_window": WINDOW},
    "gemma": {"head_dim": 8},
    "gemma2": _MIXED | _CAPPED | {"head_dim": 8, "query_pre_attn_scalar": 5},
    "gemma3_text": _MIXED | {"head_dim": 8, "query_pre_attn_scalar": 5},
    "phi3": {"sliding_window": WINDOW},
    "olmo2": {},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.3},
    "smollm3": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.5},
    "cohere2": _MIXED | {"head_dim": 8, "logit_scale": 0.3},
    "starcoder2": {"sliding_window": WINDOW},
}  # fmt: skip
UNSHARED = {
    "gpt_oss": _EXPERTS | {"head_dim": 8},
    "bloom": {"n_layer": 3, "n_head": 4},
    "falcon": {},
    "stablelm": {},
    "llama4_text": _EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 48},
}


def make(architecture: str, attention: str | None = None, **changes) -> PreTrainedModel:
    """The model without dropout, with random weights of standard deviation 0.5; with sdpa where transformers has it."""
    settings = _SMALL | {"initializer_range": 0.5} | (ARCHITECTURES | UNSHARED)[architecture] | changes
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **settings)
    return ready_policy(AutoModelForCausalLM.from_config(config, attn_implementation=attention))
