"""Messages to text by the tokenizer's chat template, and where in it the answers stand."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.pairs import Message
from lightning_dpo.data.reasons import InvalidRow
from lightning_dpo.errors import UserError


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
    """

    tokenizer: PreTrainedTokenizerBase
    score: Literal["last", "all"] = "last"

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
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        try:
            start, whole = self.render([question], {}, introduce=True), self.render([question, answer], {})
        except InvalidRow:
            return  # a template that wants more than these two; each row will be tried
        if not self.ends(whole[whole.rindex("b") + 1 :]):
            raise UserError(
                f"the chat template of {name} writes no special token after an answer ({whole[len(start) :]!r}), so "
                "the model would never learn to stop: let it end an assistant's turn with the end of sequence"
            )

    def ends(self, text: str) -> bool:
        """Whether `text`, what follows an answer, holds a token that can end it."""
        return any(token in text for token in self.special_tokens)

    def pair(self, prompt: list[Message], answer: list[Message], options: dict[str, Any]) -> ChatPair:
        """One side of a pair.

        Raises:
            InvalidRow: The template refuses the messages, or rewrites a turn when others follow.
        """
        messages = [*prompt, *answer]
        start, whole = self.render(prompt, options, introduce=True), self.render(messages, options)
        if self.score == "last" and len(answer) == 1:
            return ChatPair(start, whole, None)
        scored = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        turns = [self._turn(messages, place, options) for place in (scored[-1:] if self.score == "last" else scored)]
        if not all(whole.startswith(text) for turn in turns for text in turn):
            raise InvalidRow("turn_not_found")
        return ChatPair(turns[0][0] if self.score == "all" else start, whole, turns)

    def _turn(self, messages: list[Message], place: int, options: dict[str, Any]) -> tuple[str, str]:
        return (
            self.render(messages[:place], options, introduce=True),
            self.render(messages[: place + 1], options),
        )

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
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=introduce, **options
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidRow(f"template_refuses {' '.join(str(error).split())}") from error

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Control tokens as text, which no message may hold."""
        added = {str(token.content) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return tuple(sorted(added | set(self.tokenizer.all_special_tokens)))

    def holds_special(self, messages: Iterable[Message]) -> bool:
        """Whether a message holds the text of a control token, which the tokenizer would make one of."""
        texts = json.dumps(list(messages), ensure_ascii=False)
        return any(token in texts for token in self.special_tokens)
