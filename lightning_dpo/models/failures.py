"""Why a model or tokenizer cannot be opened, in one sentence."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError

from lightning_dpo.printable import one_line

_LONGEST_REASON = 300


def not_found(name: str, error: Exception) -> bool:
    """Whether `name` is neither a folder nor on the hub."""
    return not Path(name).is_dir() and isinstance(error, OSError | HFValidationError)


def failure(name: str, error: Exception) -> str:
    """Why `name` cannot be opened: the predicate of a sentence about it.

    Args:
        name: Hub id or folder.
        error: Any exception of transformers, peft or safetensors.
    """
    text = str(error)
    if "gated" in text.lower() or "401 Client Error" in text:
        return "needs permission on the hub: accept its licence on its page, then run `hf auth login`"
    if not_found(name, error):
        return "is neither a folder with a saved model nor a hub id that can be reached"
    if "weights_only" in text or type(error).__name__ == "UnpicklingError":
        return "cannot be opened: its weights are a Python pickle that could execute code; use safetensors"
    if "does not support an attention implementation" in text:
        return "does not support model.attention=sdpa: set model.attention=eager"
    return f"cannot be opened: {one_line(text)[:_LONGEST_REASON] or type(error).__name__}"
