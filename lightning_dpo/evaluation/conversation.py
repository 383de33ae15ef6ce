"""Answers of a policy and its reference to single prompts, and rewards of single answers."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow
from lightning_dpo.data.tokens.chat_template import ChatTemplate
from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models.generation import Writer
from lightning_dpo.module import DPOModule
from lightning_dpo.training.checked_loss import checked_rewards


class Answer(NamedTuple):
    """An answer that was sampled."""

    side: str
    """`policy` or `reference`."""
    text: str
    reward: float | None
    """None if the loss defines no rewards."""


@dataclass(frozen=True)
class Conversation:
    """A policy and its reference.

    Args:
        module: The opened module.
        tokenizer: Its tokenizer.
        max_length: Maximum number of tokens of prompt and answer together.
        max_new_tokens: Maximum number of tokens of an answer.
        template: The chat template for prompts that are messages of a user; None if prompts are text.
        greedy: Always take the most likely token.
        seed: Random seed of the samples.
    """

    module: DPOModule
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    max_new_tokens: int
    template: ChatTemplate | None = None
    greedy: bool = False
    seed: int = 0

    def answers(self, prompt: str) -> list[Answer]:
        """An answer of the policy and, if it can generate, of the reference.

        Raises:
            UserError: The prompt is empty or too long, or the chat template rejects it.
        """
        ids = self._prompt_ids(prompt)
        if not ids:
            raise UserError("the prompt is empty, and the tokenizer has no BOS token that could start an answer")
        if (room := self.max_length - len(ids)) < 1:
            raise UserError(f"the prompt has {len(ids)} tokens, and data.max_length is {self.max_length}")
        pad = self.tokenizer.eos_token_id
        writer = Writer(self._ends(), pad, min(room, self.max_new_tokens), self.greedy, seed=self.seed)
        written = {"policy": writer.answers(self.module.policy, [ids])[0]}
        reference = self.module.reference
        if reference is not None and reference.answers:
            with reference.active() as model:
                written["reference"] = writer.answers(model, [ids])[0]
        return [
            Answer(
                side,
                str(self.tokenizer.decode(answer, skip_special_tokens=True)),
                self._reward(ids, answer) if self.scores else None,
            )
            for side, answer in written.items()
        ]

    @property
    def scores(self) -> bool:
        """Whether the loss defines rewards."""
        return self.module.loss.has_rewards

    def reward(self, prompt: str, answer: str) -> float:
        """The reward of an answer, according to the loss.

        Raises:
            UserError: The prompt or the answer is invalid.
        """
        row = self._encoded(prompt, answer)
        return self._reward(row["prompt_ids"], row["chosen_ids"], row["chosen_scored"])

    @torch.no_grad()
    def _reward(self, prompt: list[int], answer: list[int], scored: list[bool] | None = None) -> float:
        pair = TokenizedPair(0, prompt, answer, [], scored)
        layout = PaddedLayout(self.tokenizer.eos_token_id, chosen_only=True)
        batch = layout(MicroBatch([pair], [True], 1, 1)).to(self.module.device)
        loss, reference = self.module.loss, self.module.reference
        policy = completion_logps(self.module.policy, batch, loss.needs_tokens)
        of_reference = reference.logps(batch, loss.needs_tokens) if reference else None
        return checked_rewards(loss, policy, of_reference)[0].item()

    def _prompt_ids(self, prompt: str) -> list[int]:
        if self.template is None:
            return self.tokenizer(prompt).input_ids
        try:
            text = self.template.render([_message("user", prompt)], {}, introduce=True)
        except InvalidRow as reason:
            raise UserError(str(reason)) from reason
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer: EOS and, in a chat, the last special token of a turn."""
        special = special_tokens(self.tokenizer)
        turn = self._encoded("a", "a")["chosen_ids"] if self.template else []
        last = next((token for token in reversed(turn) if token in special), None)
        return frozenset({self.tokenizer.eos_token_id, last} - {None})

    def _encoded(self, prompt: str, answer: str) -> dict[str, Any]:
        """The token ids of a prompt and an answer, as in training, which expects pairs: the answer is on both sides."""
        row: dict[str, Any] = {"prompt": prompt, "chosen": answer, "rejected": answer, "chat": bool(self.template)}
        if self.template:
            messages = json.dumps([_message("assistant", answer)])
            row |= {"prompt": json.dumps([_message("user", prompt)]), "chosen": messages, "rejected": messages}
        options = self.template.options if self.template else {}
        tokenization = Tokenization(self.tokenizer, self.max_length, "drop", chat_template_kwargs=options)
        (encoded,) = tokenization.encoded([row])
        if encoded["invalid"] not in ("", IDENTICAL_ANSWERS):
            raise UserError(encoded["invalid"])
        return encoded


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}
