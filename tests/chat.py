"""A tokenizer with a chat template, and dialogues in the forms that data sets have."""

from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(
    tokenizer: PreTrainedTokenizerFast, template: str | None = CHATML, **tokens
) -> PreTrainedTokenizerFast:
    """A copy of `tokenizer` that knows ChatML's two control tokens and `template`."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="<|im_end|>",
        pad_token="<|end|>",
        extra_special_tokens=["<|im_start|>"],
        **tokens,
    )
    copy.chat_template = template
    return copy


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}
