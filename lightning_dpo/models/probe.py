"""Comparison of two versions of a model by their log-probs on a few fixed token sequences."""

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import attention_of, vocabulary
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.models.adapter_kinds import REFERENCE
from lightning_dpo.models.preparation import evaluating
from lightning_dpo.models.reference import Reference

_SEQUENCES, _LENGTH = 2, 9
_PRECISIONS = {torch.float32: "32", torch.float64: "64"}


@torch.no_grad()
def probe(model: PreTrainedModel) -> Tensor:
    """Log-probs of two fixed sequences of random tokens, in eval mode. Shape: (2,), on the CPU."""
    generator = torch.Generator("cpu").manual_seed(0)
    device = model.device
    # device="cpu" is needed, because Lightning creates models in a context with another default device.
    ids = torch.randint(vocabulary(model), (_SEQUENCES, _LENGTH), generator=generator, device="cpu").to(device)
    # Flash attention has no fp32 kernels.
    flash = "flash" in attention_of(model)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=flash):
        logits = model(input_ids=ids, use_cache=False).logits
    # Logits at a position predict the next token.
    logps = logits[:, :-1].float().log_softmax(-1)
    return logps.gather(-1, ids[:, 1:, None]).sum((1, 2)).cpu()


@torch.no_grad()
def check_causal(model: PreTrainedModel) -> None:
    """Check that logits do not depend on later tokens. Encoders such as BERT can be opened as causal LMs.

    Raises:
        UserError: They do.
    """
    ids = torch.arange(_LENGTH, device=model.device)[None] % vocabulary(model)
    changed = ids.clone()
    changed[:, -1] = 0
    with evaluating(model):
        one, other = (model(input_ids=each, use_cache=False).logits[:, :-1] for each in (ids, changed))
    # Twice the same computation, except for kernels that sum in another order. Autocast decides the dtype.
    allowed = 16 * max(torch.finfo(dtype).eps for dtype in (one.dtype, model.dtype))
    if float((one - other).abs().max()) > allowed * float(one.abs().max()):
        raise UserError(
            f"{type(model).__name__} is not causal: its tokens attend to later ones, so it does not define "
            "autoregressive log-probs"
        )


def check_same(expected: Tensor, model: PreTrainedModel, what: str) -> None:
    """Check that a model equals another one up to rounding.

    Args:
        expected: Result of `probe` for the other model.
        model: The model.
        what: Start of the error message, such as "the merged export".

    Raises:
        UserError: They differ.
    """
    allowed = tolerance(_PRECISIONS.get(model.dtype, "16")) * (_LENGTH - 1) ** 0.5
    # In bf16, logits above 16 are multiples of 1/8, and merging rounds weights again.
    if model.dtype not in _PRECISIONS:
        allowed *= 4
    worst = float((expected - probe(model)).abs().nan_to_num(torch.inf).max())
    if worst > allowed:
        raise UserError(f"{what}: their log-probs of {_SEQUENCES} probe sequences differ by {worst:.3g} nats")


def check_opened(opened: Tensor | None, policy: PreTrainedModel, reference: Reference | None) -> None:
    """Check that adding an adapter or creating the reference did not change the model.

    The start check compares only policy and reference, and would not notice if both had changed.

    Args:
        opened: Result of `probe` for the opened model; None if no adapter is involved.
        policy: The policy with its adapter.
        reference: Its reference. Another model, or the model without its trained adapter, may differ.

    Raises:
        UserError: Policy or reference differs from the opened model.
    """
    copied = isinstance(policy, PeftModel) and REFERENCE in policy.peft_config
    if opened is None or reference is None or not (reference.starts_equal or copied):
        return
    check_same(opened, policy, "the policy changed when its adapter or reference was created")
    if not reference.answers:
        return
    with reference.active() as model:
        check_same(opened, model, "the reference differs from the model that was opened")
