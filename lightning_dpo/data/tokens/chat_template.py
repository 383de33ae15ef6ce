"""Messages to text by the tokenizer's chat template, and where in it the answers stand."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatPair:
    """One side of a pair, as the chat template writes it.

    Attributes:
        prompt: The prompt with what introduces an answer.
        whole: The prompt's messages and the answer's.
        turns: Texts that `whole` begins with, two per scored turn of an assistant: up to where the turn begins, and up
            to where it ends. None: all that follows the prompt is one scored turn.
    """

    prompt: str
    whole: str
    turns: list[tuple[str, str]] | None


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: Whose template it is.
        score: `last`: the last turn of an answer is scored; `all`: every turn of the assistant is, the prompt's too.
        options: Further arguments of the template, where a row does not set them.
    """

    tokenizer: PreTrainedTokenizerBase
    score: Literal["last", "all"] = "last"
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Try the template on a question and its answer.

        Raises:
            UserError: There is no template, or it writes nothing that ends an answer.
        """
        name = self.tokenizer.name_or_path or "the model"
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the data are messages, and the tokenizer of {name} has no chat template to write them with: choose "
                "an instruction-tuned model, set tokenizer.chat_template and save it, or give the data as text"
            )
        whole = self.probe()
        if whole and not self.ends(whole.rpartition("b")[2]):
            raise UserError(
                f"the chat template of {name} writes no special token after an answer ({whole!r}), so the model would "
                "never learn to stop: let it end an assistant's turn with the end of sequence"
            )
        if "strftime_now" in self.tokenizer.chat_template and "date_string" not in self.options:
            log.warning(
                "The chat template of %s writes today's date, so tokens differ from day to day; fix it by "
                "data.chat_template_kwargs={date_string: 26 Jul 2024}.",
                name,
            )

    def ends(self, text: str) -> bool:
        """Whether `text`, what follows an answer, holds a token that can end it."""
        return any(token in text for token in self.special_tokens)

    def pair(self, prompt: list[Message], answer: list[Message], options: dict[str, Any]) -> ChatPair:
        """One side of a pair.

        Raises:
            InvalidRow: The template refuses the messages, or writes prompt or turn otherwise when others follow.
        """
        messages = [*prompt, *answer]
        start, whole = self.render(prompt, options, introduce=True), self.render(messages, options)
        shared = start[: common_prefix(start, whole)]
        if any(text in start and text not in shared for text in map(_text, prompt)):
            raise InvalidRow("the chat template renders the prompt differently when an answer follows")
        if self.score == "last" and len(answer) == 1:
            return ChatPair(start, whole, None)
        scored = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        turns = [
            self._turn(messages, place, whole, options) for place in (scored[-1:] if self.score == "last" else scored)
        ]
        return ChatPair(turns[0][0] if self.score == "all" else start, whole, turns)

    def _turn(self, messages: list[Message], place: int, whole: str, options: dict[str, Any]) -> tuple[str, str]:
        """What `whole` begins with, up to where a turn begins and up to where it ends."""
        before = self.render(messages[:place], options, introduce=True)
        after = self.render(messages[: place + 1], options)
        start, end = common_prefix(before, whole), common_prefix(after, whole)
        if _text(messages[place]) not in whole[start:end]:
            raise InvalidRow("the chat template renders an assistant turn differently when other messages follow")
        return whole[:start], whole[:end]

    def probe(self) -> str:
        """What the template writes for one question and its answer; for a template that wants others, nothing."""
        try:
            return self.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {})
        except InvalidRow:
            return ""

    def render(self, messages: list[Message], options: dict[str, Any], introduce: bool = False) -> str:
        """What the template writes.

        Args:
            messages: The dialogue.
            options: `tools` and other arguments of the template.
            introduce: Add what introduces an answer.

        Raises:
            InvalidRow: The template refuses them.
        """
        try:
            written = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=introduce, **{**self.options, **options}
            )
            return str(written)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidRow(f"the chat template rejects the messages ({' '.join(str(error).split())})") from error

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Control tokens as text, which no message may hold."""
        return tuple(sorted({*special_tokens(self.tokenizer).values(), *self.tokenizer.all_special_tokens}))

    def holds_special(self, *texts: Any) -> bool:
        """Whether a message, a tool or an option holds the text of a control token, which would become one."""
        written = json.dumps(texts, ensure_ascii=False)
        return any(token in written for token in self.special_tokens)


def _text(message: Message) -> str:
    return str(message.get("content", "")).strip()


def common_prefix(start: Sequence[Any], whole: Sequence[Any]) -> int:
    """How many of the first elements, or characters, are equal.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5]), common_prefix("abc", "ab")
    (2, 2)
    """
    if whole[: len(start)] == start:
        return len(start)
    return next((place for place, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(whole))
