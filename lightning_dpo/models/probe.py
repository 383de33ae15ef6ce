"""Whether two forms of one model are the same model: their log-probs on a few fixed token sequences."""

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import attention_of, vocabulary
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.models.adapter import REFERENCE
from lightning_dpo.models.causal_lm import evaluating
from lightning_dpo.models.reference import Reference

_SEQUENCES, _LENGTH = 2, 9
_PRECISIONS = {torch.float32: "32", torch.float64: "64"}


@torch.no_grad()
def probe(model: PreTrainedModel) -> Tensor:
    """Log-probs of two sequences of random tokens, always the same ones, in eval mode. Shape: (2,), on the CPU."""
    generator = torch.Generator("cpu").manual_seed(0)
    device = model.device
    # On the CPU explicitly: Lightning opens models within the context of their device.
    ids = torch.randint(vocabulary(model), (_SEQUENCES, _LENGTH), generator=generator, device="cpu").to(device)
    # Flash attention has no fp32 kernels.
    flash = "flash" in attention_of(model)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=flash):
        logits = model(input_ids=ids, use_cache=False).logits
    logps = logits[:, :-1].float().log_softmax(-1)
    return logps.gather(-1, ids[:, 1:, None]).sum((1, 2)).cpu()


def check_same(expected: Tensor, model: PreTrainedModel, what: str) -> None:
    """Refuse a model that differs from what it is a form of by more than rounding.

    Args:
        expected: What `probe` gave for that.
        model: The model.
        what: The beginning of the sentence, such as "the merged export".

    Raises:
        UserError: They differ.
    """
    allowed = tolerance(_PRECISIONS.get(model.dtype, "16")) * (_LENGTH - 1) ** 0.5
    if model.dtype not in _PRECISIONS:  # logits beyond 16 are rounded to 1/8, and merged weights once more
        allowed *= 4
    worst = float((expected - probe(model)).abs().nan_to_num(torch.inf).max())
    if worst > allowed:
        raise UserError(f"{what}: their log-probs of {_SEQUENCES} probe sequences differ by {worst:.3g} nats")


def check_opened(opened: Tensor | None, policy: PreTrainedModel, reference: Reference | None) -> None:
    """Refuse an adapter or a reference whose making changed the model: the start check sees only that both agree.

    Args:
        opened: What `probe` gave for the policy as it was opened; None for one that nothing was put on.
        policy: The policy, with what is to be trained in it.
        reference: Its reference. One that is another model, or the model without its trained adapter, may differ.

    Raises:
        UserError: One of the two is not the model that was opened.
    """
    copied = isinstance(policy, PeftModel) and REFERENCE in policy.peft_config
    if opened is None or reference is None or not (reference.starts_equal or copied):
        return
    check_same(opened, policy, "the policy changed before training, when its adapter or its reference was made")
    with reference.active() as model:
        check_same(opened, model, "the reference is not the model that was opened")
