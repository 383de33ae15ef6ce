"""Messages as text, rendered by the tokenizer's chat template, and the positions of the answers in it."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.data.tokens.time_limit import time_limit
from lightning_dpo.errors import UserError
from lightning_dpo.printable import one_line

log = logging.getLogger(__name__)

_SECONDS = 10
_LONGEST_TEXT = 50_000_000


@dataclass(frozen=True)
class ChatPair:
    """One side of a pair, rendered by the chat template.

    Attributes:
        prompt: The prompt with the generation prompt, which introduces an answer.
        whole: The messages of the prompt and the answer.
        turns: For each scored turn of the assistant, two prefixes of `whole`: up to the start and up to the end of the
            turn. None: everything after the prompt is one scored turn.
    """

    prompt: str
    whole: str
    turns: list[tuple[str, str]] | None


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.
        score: `last` scores the last turn of an answer; `all` every turn of the assistant, also those of the prompt.
        options: Further arguments of the template. Those of a row take precedence.
    """

    tokenizer: PreTrainedTokenizerBase
    score: Literal["last", "all"] = "last"
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Test the template on a question and its answer.

        Raises:
            UserError: The template is missing, or does not end answers with a special token.
        """
        name = self.tokenizer.name_or_path or "the model"
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the data are messages, and the tokenizer of {name} has no chat template: use an instruction-tuned "
                "model, set tokenizer.chat_template and save the tokenizer, or provide the data as text"
            )
        whole = self.probe()
        if whole and not self.ends(whole.rpartition("b")[2]):
            raise UserError(
                f"the chat template of {name} does not end an answer with a special token ({whole!r}), so the model "
                "would not learn to stop: change the template so that assistant turns end with the EOS token"
            )
        if "strftime_now" in self.tokenizer.chat_template and "date_string" not in self.options:
            log.warning(
                "The chat template of %s contains today's date, so tokens differ from day to day; to set a date, use "
                "data.chat_template_kwargs={date_string: 26 Jul 2024}.",
                name,
            )

    def ends(self, text: str) -> bool:
        """Whether `text`, which follows an answer, contains a token that can end it."""
        return any(token in text for token in self.special_tokens)

    def pair(self, prompt: list[Message], answer: list[Message], options: dict[str, Any]) -> ChatPair:
        """One side of a pair.

        Raises:
            InvalidRow: The template rejects the messages, or renders them differently when others follow.
        """
        messages = [*prompt, *answer]
        start, whole = self.render(prompt, options, introduce=True), self.render(messages, options)
        # A template may change whitespace at the end of the prompt, but must not change its messages.
        shared = start[: common_prefix(start, whole)]
        if any(text in start and text not in shared for text in map(_text, prompt)):
            raise InvalidRow("the chat template renders the prompt differently when an answer follows")
        if self.score == "last" and len(answer) == 1:
            return ChatPair(start, whole, None)
        scored = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        turns = [
            self._turn(messages, index, whole, options) for index in (scored[-1:] if self.score == "last" else scored)
        ]
        return ChatPair(turns[0][0] if self.score == "all" else start, whole, turns)

    def _turn(self, messages: list[Message], index: int, whole: str, options: dict[str, Any]) -> tuple[str, str]:
        """The prefixes of `whole` up to the start and up to the end of a turn."""
        before = self.render(messages[:index], options, introduce=True)
        after = self.render(messages[: index + 1], options)
        start, end = common_prefix(before, whole), common_prefix(after, whole)
        if _text(messages[index]) not in whole[start:end]:
            raise InvalidRow("the chat template renders an assistant turn differently when other messages follow")
        return whole[:start], whole[:end]

    def probe(self) -> str:
        """The text of a question and its answer; empty if the template rejects them."""
        try:
            return self.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {})
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
        try:
            with time_limit(_SECONDS):
                text = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=introduce, **{**self.options, **options}
                )
        except TimeoutError as error:
            name = self.tokenizer.name_or_path or "the model"
            raise UserError(
                f"the chat template of {name} takes more than {_SECONDS} s for {len(messages)} messages: use the "
                "template of another tokenizer"
            ) from error
        # A template is a program: it may raise anything, for example for a role that it does not know.
        except Exception as error:
            raise InvalidRow(f"the chat template rejects the messages ({one_line(str(error))})") from error
        if len(text) > _LONGEST_TEXT:
            raise InvalidRow(f"the chat template writes more than {_LONGEST_TEXT} characters")
        return str(text)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Special tokens as text, which messages must not contain."""
        return tuple(sorted({*special_tokens(self.tokenizer).values(), *self.tokenizer.all_special_tokens}))

    def holds_special(self, *texts: Any) -> bool:
        """Whether a message, tool or option contains the text of a special token, which would be tokenized as one."""
        text = json.dumps(texts, ensure_ascii=False)
        return any(token in text for token in self.special_tokens)


def _text(message: Message) -> str:
    return str(message.get("content", "")).strip()


def common_prefix(start: Sequence[Any], whole: Sequence[Any]) -> int:
    """The number of equal elements or characters at the start.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5]), common_prefix("abc", "ab")
    (2, 2)
    """
    if whole[: len(start)] == start:
        return len(start)
    return next((index for index, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(whole))
