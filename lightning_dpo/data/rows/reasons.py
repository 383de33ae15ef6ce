"""Why a row cannot be a pair."""

REASONS = {
    "bad_utf8": "the text is not UTF-8",
    "bad_json": "the line is not JSON, or has a key twice",
    "missing_field": "a field is missing",
    "wrong_type": "a field has the wrong type",
    "empty_prompt": "the prompt is empty",
    "empty_answer": "an answer is empty",
    "negative_weight": "the weight is negative",
    "different_prompts": "the two dialogues have different prompts",
    "no_answer": "a dialogue has no answer",
    "no_question": "the prompt ends with an answer",
    "identical_answers": "both answers are the same",
    "special_token": "the text contains one of the tokenizer's special tokens",
    "unknown_token": "the text contains what the tokenizer has no token for",
    "template_refuses": "the chat template refuses these messages",
    "prompt_not_prefix": "the chat template writes the prompt differently when an answer follows",
    "turn_not_found": "the chat template writes a turn of the assistant differently when others follow",
    "no_end_of_turn": "the chat template writes nothing after an answer that would end it",
    "bos_twice": "the chat template writes two beginnings of sequence in a row",
    "nothing_left": "truncation leaves nothing that tells the answers apart",
}
"""What each reason means, as it is shown."""


class InvalidRow(ValueError):
    """Raised where a row cannot be made a pair; its argument is a key of `REASONS`, and maybe what it is about."""


def meaning(reason: str) -> str:
    """A reason in words.

    >>> meaning("missing_field chosen")
    'a field is missing (chosen)'
    """
    name, _, about = reason.partition(" ")
    return f"{REASONS.get(name, name)} ({about})" if about else REASONS.get(name, name)
