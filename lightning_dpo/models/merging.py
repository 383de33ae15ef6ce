"""The model with an adapter merged into its weights."""

import warnings
from collections.abc import Callable
from typing import cast

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model
from lightning_dpo.models.adapter_kinds import kind_of, own_adapter
from lightning_dpo.models.quantization import dequantized, is_quantized
from lightning_dpo.printable import one_line


def merged(policy: PeftModel) -> PreTrainedModel:
    """The model with the adapter merged into its weights. It reuses the policy's tensors: do not use the policy later.

    If the LM head and the embedding share a weight and an adapter changes one of them, the weight is untied first.
    Otherwise, merging the change of one would change the other too.

    Raises:
        UserError: peft cannot merge this adapter.
    """
    if is_quantized(policy):
        try:
            policy = dequantized(policy, own_adapter(policy))
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"the quantized base model cannot be merged ({one_line(str(error))})") from error
    base = base_model(policy)
    head, table = base.get_output_embeddings(), base.get_input_embeddings()
    adapted = any(isinstance(module, BaseTunerLayer) for module in (head, table))
    if adapted and head.weight is table.weight:
        inner = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        inner.weight = nn.Parameter(cast(Tensor, head.weight).detach().clone(), requires_grad=False)
        _untie(base)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        merge = cast(Callable[..., PreTrainedModel], policy.base_model.merge_and_unload)
        # By name, because the frozen copy of the reference must not be merged.
        try:
            model = merge(adapter_names=[own_adapter(policy)])
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"peft cannot merge this {kind_of(policy)} adapter ({one_line(str(error))})") from error
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        _untie(model)  # modules_to_save trained each of them separately
    return model


def _untie(model: PreTrainedModel) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
