"""A tokenizer's chat template: the check before training, and the text that it writes for messages."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.rows.messages import leaves
from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.tokens.message_texts import contains, mentions
from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.data.tokens.time_limit import time_limit
from lightning_dpo.errors import UserError
from lightning_dpo.printable import one_line

log = logging.getLogger(__name__)

_SECONDS = 10
_LONGEST_TEXT = 50_000_000
MARK = "Zq7"
"""Text that no template and no special token contains."""
QUESTION: Message = {"role": "user", "content": "a"}


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.
        options: Further arguments of the template. Those of a row take precedence.
    """

    tokenizer: PreTrainedTokenizerBase
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Test the template on a question and its answer.

        Raises:
            UserError: The template is missing, does not end answers with a special token, or does not read an option.
        """
        if not self.source:
            raise UserError(
                f"the data are messages, and the tokenizer of {self._name} has no chat template: use an "
                "instruction-tuned model, set tokenizer.chat_template and save the tokenizer, or provide the data as "
                "text"
            )
        if unread := [name for name in self.options if not mentions(self.source, name)]:
            raise UserError(
                f"data.chat_template_kwargs.{unread[0]} has no effect: the chat template of {self._name} does not read "
                "it"
            )
        whole = self.probe()
        if whole and not self.ends(whole.rpartition(MARK)[2]):
            raise UserError(
                f"the chat template of {self._name} does not end an answer with a special token ({whole!r}), so the "
                "model would not learn to stop: change the template so that assistant turns end with the EOS token"
            )
        self._warn()

    def _warn(self) -> None:
        """Log what is valid and may surprise: a date, and a generation prompt that training does not contain."""
        if "strftime_now" in self.source and "date_string" not in self.options:
            advice = "to set a date, use data.chat_template_kwargs={date_string: 26 Jul 2024}"
            if not mentions(self.source, "date_string"):
                advice = "the template has no argument for another date"
            log.warning(
                "The chat template of %s contains today's date, so token ids change daily; %s.",
                self._name,
                advice,
            )
        try:
            start, whole = self.render([QUESTION], {}, introduce=True), self.probe()
        except InvalidRow:
            return
        if whole and not whole.startswith(start.rstrip()):
            log.warning(
                "The chat template of %s introduces an answer with %r in generation, but does not write all of it "
                "before an answer in training.",
                self._name,
                start[-40:],
            )

    def ends(self, text: str) -> bool:
        """Whether `text`, which follows an answer, contains a token that can end it."""
        return any(token in text for token in self.special_tokens)

    def probe(self) -> str:
        """The text of a question and its answer; empty if the template rejects them."""
        try:
            return self.render([QUESTION, {"role": "assistant", "content": MARK}], {})
        except InvalidRow:
            return ""

    def render(self, messages: list[Message], options: dict[str, Any], introduce: bool = False) -> str:
        """The text of messages.

        Args:
            messages: The dialogue.
            options: `tools` and other arguments of the template.
            introduce: Add the generation prompt, which introduces an answer.

        Raises:
            InvalidRow: The template rejects them.
        """
        if any("tool_calls" in message for message in messages) and self._arguments_as_json:
            messages = [_with_json(message) for message in messages]
        if self._content_as_parts:
            messages = [_with_parts(message) for message in messages]
        return self._rendered(messages, options, introduce)

    def _rendered(self, messages: list[Message], options: dict[str, Any], introduce: bool) -> str:
        try:
            with time_limit(_SECONDS):
                text = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=introduce, **{**self.options, **options}
                )
        except TimeoutError as error:
            raise UserError(
                f"the chat template of {self._name} takes more than {_SECONDS} s for {len(messages)} messages: use the "
                "template of another tokenizer"
            ) from error
        # A template is a program: it may raise anything, for example for a role that it does not know.
        except Exception as error:
            raise InvalidRow(f"the chat template rejects the messages ({one_line(str(error))})") from error
        if len(text) > _LONGEST_TEXT:
            raise InvalidRow(f"the chat template writes more than {_LONGEST_TEXT} characters")
        return str(text)

    @cached_property
    def source(self) -> str:
        """The template's source; of a tokenizer with several templates, the source of all."""
        template = self.tokenizer.chat_template
        return "\n".join(template.values()) if isinstance(template, dict) else template or ""

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Special tokens as text, which messages must not contain."""
        return tuple(sorted({*special_tokens(self.tokenizer).values(), *self.tokenizer.all_special_tokens}))

    def special_in(self, *values: Any) -> str | None:
        """A special token in a text of a message, tool or option, which would be tokenized as one, or None."""
        texts = [leaf for value in values for leaf in leaves(value) if isinstance(leaf, str)]
        return next((token for token in self.special_tokens if any(token in text for text in texts)), None)

    @cached_property
    def _name(self) -> str:
        return self.tokenizer.name_or_path or "the model"

    @cached_property
    def _content_as_parts(self) -> bool:
        """Whether the template expects the content as a list of parts, as those of some multimodal models do."""
        message: Message = {"role": "user", "content": MARK}
        accepted = []
        for form in (message, _with_parts(message)):
            try:
                accepted.append(MARK in self._rendered([form], {}, introduce=True))
            except InvalidRow:
                accepted.append(False)
        return accepted == [False, True]

    @cached_property
    def _arguments_as_json(self) -> bool:
        """Whether the template expects the arguments of a call as JSON text. Most expect an object."""
        call = {"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {MARK: "b"}}}
        message: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
        accepted = []
        for form in (message, _with_json(message)):
            try:
                text = self._rendered([QUESTION, form], {}, introduce=False)
            except InvalidRow:
                text = ""
            # An object that is written by Python's str() is not JSON.
            accepted.append(contains(text, MARK) and f"{{'{MARK}'" not in text)
        return accepted == [False, True]


def _with_parts(message: Message) -> Message:
    """A message whose content is a list with one part."""
    return message | {"content": [{"type": "text", "text": message["content"]}]} if "content" in message else message


def _with_json(message: Message) -> Message:
    """A message whose calls have their arguments as JSON text."""
    calls = []
    for call in message.get("tool_calls", []):
        function = dict(call.get("function", call))
        if not isinstance(function.get("arguments", ""), str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": function} if "function" in call else function)
    # Such templates also need a content.
    return {"content": ""} | message | {"tool_calls": calls} if calls else message
