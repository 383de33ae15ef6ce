"""Whether the log-probs of two models can be compared."""

from transformers import PreTrainedModel

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import attention_of, vocabulary


def check_comparable(policy: PreTrainedModel, reference: PreTrainedModel) -> None:
    """Check that log-probs of policy and reference can be compared exactly.

    Raises:
        UserError: They differ in vocabulary size, end-of-sequence tokens, dtype or attention implementation.
    """
    theirs = _facts(reference)
    ends = [_ends(model) for model in (policy, reference)]
    differences = [f"{key} {value} and {theirs[key]}" for key, value in _facts(policy).items() if value != theirs[key]]
    # A chat model may have more end-of-sequence tokens than its base model. One in common is enough.
    if all(ends) and not ends[0] & ends[1]:
        differences.append(f"end-of-sequence ids {sorted(ends[0])} and {sorted(ends[1])}")
    if differences:
        raise UserError(f"policy and reference differ in {', '.join(differences)}: the log-ratio would be meaningless")


def _ends(model: PreTrainedModel) -> set[int]:
    ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    return {ids} if isinstance(ids, int) else set(ids or ())


def _facts(model: PreTrainedModel) -> dict[str, object]:
    return {
        "vocabulary size": vocabulary(model),
        "dtype": model.dtype,
        "attention implementation": attention_of(model),
    }
