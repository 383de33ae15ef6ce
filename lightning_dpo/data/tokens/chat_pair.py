"""A prompt and an answer as the text of a chat template, with the positions of the scored turns."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_dpo.data.prefix import common_prefix
from lightning_dpo.data.rows.messages import WEIGHT, leaves
from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import InvalidRow, excerpt
from lightning_dpo.data.tokens.chat_template import MARK, QUESTION, ChatTemplate
from lightning_dpo.data.tokens.message_texts import KNOWN, REASONING_PART, contains, mentions, missing_parts

_STRUCTURE = {
    "type", "function", "parameters", "properties", "object", "name", "description", "required", "strict", "items",
    "array",
}  # fmt: skip
_SHORT = 16  # characters
_ROLES = ("user", "assistant", "tool")


@dataclass(frozen=True)
class ChatPair:
    """One side of a pair, rendered by the chat template.

    Attributes:
        prompt: The prompt with the generation prompt, which introduces an answer.
        whole: The messages of the prompt and the answer.
        turns: For each scored turn of the assistant, two prefixes of `whole`: up to the start and up to the end of the
            turn. None: everything after the prompt is one scored turn.
        ignored: Fields and parts of the messages that the template does not write.
    """

    prompt: str
    whole: str
    turns: list[tuple[str, str]] | None
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ChatRenderer:
    """Renders pairs of messages, and checks that no text of them is missing.

    Args:
        template: The chat template.
        score: `last` scores the last turn of an answer; `all` every turn of the assistant, also those of the prompt.
    """

    template: ChatTemplate
    score: Literal["last", "all"] = "last"
    _tested: dict[Hashable, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, prompt: list[Message], answer: list[Message], options: dict[str, Any]) -> ChatPair:
        """One side of a pair.

        Args:
            prompt: Messages before the answer.
            answer: Messages of the answer.
            options: `tools` and other arguments of the template.

        Raises:
            InvalidRow: The template rejects the messages, omits a part of them, or renders them differently when others
                follow.
        """
        messages, render = [*prompt, *answer], self.template.render
        start, whole = render(prompt, options, introduce=True), render(messages, options)
        # A template may change whitespace at the end of the prompt, but must not change its messages.
        shared = common_prefix(start, whole)
        scored = self._scored(messages, len(prompt))
        omitted = missing_parts(prompt, start)
        if shared < len(start) and len(missing_parts(prompt, start[:shared])) > len(omitted):
            raise InvalidRow("the chat template renders the prompt differently when an answer follows")
        omitted_of_answer = missing_parts(answer, whole[shared:])
        if omitted_of_answer:
            # The generation prompt and the answer may begin alike, for example with "<".
            omitted_of_answer = missing_parts(answer, whole[common_prefix(render(prompt, options), whole) :])
        omitted += [(len(prompt) + index, part) for index, part in omitted_of_answer]
        omitted += [(index, "content") for index in self._short(messages) if not self._writes(messages, index, options)]
        ignored = self._permitted(messages, omitted, scored)
        ignored |= self._unread(messages, whole, options)
        if self.score == "last" and len(answer) == 1:
            return ChatPair(start, whole, None, frozenset(ignored))
        turns = [self._turn(messages, index, whole, options) for index in scored]
        first = turns[0][0] if self.score == "all" else start
        return ChatPair(first, whole, turns, frozenset(ignored))

    def _scored(self, messages: list[Message], start: int) -> list[int]:
        """Indices of the scored messages."""
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if self.score == "last":
            turns = turns[-1:]
        weighted = [index for index in turns if message_weight(messages[index])]
        if not weighted or weighted[-1] < start:
            raise InvalidRow("the answer has weight 0, so no turn of it would be scored")
        return weighted

    def _short(self, messages: list[Message]) -> list[int]:
        """Indices of the messages whose text is so short that it could be found in the words of the template."""
        texts = ((index, str(message.get("content", "")).strip()) for index, message in enumerate(messages))
        return [index for index, text in texts if 0 < len(text) < _SHORT]

    def _writes(self, messages: list[Message], index: int, options: dict[str, Any]) -> bool:
        """Whether the template writes the text of a message, tested with another text, once per structure."""
        structure = (index, tuple((message["role"], *message) for message in messages), tuple(options))
        if structure not in self._tested:
            marked = [*messages[:index], messages[index] | {"content": MARK}, *messages[index + 1 :]]
            try:
                self._tested[structure] = MARK in self.template.render(marked, options)
            except InvalidRow:
                self._tested[structure] = True  # the template checks texts, so it reads them
        return self._tested[structure]

    def _permitted(self, messages: list[Message], omitted: list[tuple[int, str]], scored: Sequence[int]) -> set[str]:
        """What may be omitted from messages: reasoning of turns that are not scored."""
        # Of two messages with the same text, the one with the less common role is more likely the one that is missing.
        for index, part in sorted(omitted, key=lambda item: messages[item[0]]["role"] in _ROLES):
            role = messages[index]["role"]
            if part != REASONING_PART or role != "assistant" or index in scored:
                advice = "" if role in _ROLES else "; to convert the role, set data.source.roles"
                raise InvalidRow(
                    f"the chat template omits the {part} of a message with the role {excerpt(role)}{advice}"
                )
        return {"reasoning of earlier turns"} if omitted else set()

    def _unread(self, messages: list[Message], whole: str, options: dict[str, Any]) -> set[str]:
        """The fields of messages, and the arguments of the row, that the template does not read."""
        if options.get("tools") and not self._writes_tools(options["tools"]):
            raise InvalidRow("the chat template does not render the tools")
        template, written = self.template.source, whole.lower()
        # Some templates write types in capitals, and the structure of a schema in a form of their own.
        schema = {leaf.lower() for leaf in leaves(options.get("tools") or []) if isinstance(leaf, str)} - _STRUCTURE
        fields = {(name, str(value)) for message in messages for name, value in message.items() if name not in KNOWN}
        ignored = {f"messages.{name}" for name, value in fields if not mentions(template, name) or value not in whole}
        ignored |= {"tools: parts of the schema"} if any(not contains(written, text) for text in schema) else set()
        return ignored | {
            f"chat_template_kwargs.{name}" for name in options if name != "tools" and not mentions(template, name)
        }

    def _writes_tools(self, tools: list[Any]) -> bool:
        """Whether the template writes tools, tested with another name, once per form of the tools."""
        form = ("tools", str([sorted(tool) if isinstance(tool, dict) else tool for tool in tools]))
        if form not in self._tested:
            functions = [tool.get("function", tool) if isinstance(tool, dict) else {} for tool in tools]
            marked = [
                tool | ({"function": function | {"name": MARK}} if "function" in tool else {"name": MARK})
                if isinstance(tool, dict) and isinstance(function, dict)
                else tool
                for tool, function in zip(tools, functions, strict=True)
            ]
            self._tested[form] = MARK in self.template.render([QUESTION], {"tools": marked}, introduce=True)
        return self._tested[form]

    def _turn(self, messages: list[Message], index: int, whole: str, options: dict[str, Any]) -> tuple[str, str]:
        """The prefixes of `whole` up to the start and up to the end of a turn."""
        before = self.template.render(messages[:index], options, introduce=True)
        after = self.template.render(messages[: index + 1], options)
        start, end = common_prefix(before, whole), common_prefix(after, whole)
        if missing_parts([messages[index]], whole[start:end]):
            raise InvalidRow("the chat template renders an assistant turn differently when other messages follow")
        return whole[:start], whole[:end]


def message_weight(message: Message) -> int:
    """0 for a message that is excluded from the loss, otherwise 1."""
    return int(message.get(WEIGHT, 1))
