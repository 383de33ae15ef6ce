"""Answers that a model writes: drawn, measured, and how far they are from the reference's distribution."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed
from transformers import GenerationConfig, PreTrainedModel

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps.forward import base_model, scored_logits
from lightning_dpo.models.causal_lm import evaluating
from lightning_dpo.models.reference import Reference

Ids = list[int]

_REPEATED = 4  # tokens in a row that make a repetition
_SCORED = 256  # tokens whose next-token distributions are compared at once


@dataclass(frozen=True)
class Writer:
    """How answers are written.

    Args:
        ends: Tokens that end an answer.
        pad_token_id: Any token.
        max_new_tokens: Tokens after which an answer is cut off.
        greedy: Take the likeliest token every time, instead of drawing one at temperature 1.
        batch_size: Answers that are written side by side.
        seed: Of the draw; the global generator is left alone.
        devices: More than one: all of them write equally many answers, and wait for each other.
    """

    ends: frozenset[int]
    pad_token_id: int
    max_new_tokens: int
    greedy: bool = False
    batch_size: int = 8
    seed: int = 0
    devices: int = 1

    @torch.no_grad()
    def answers(self, model: PreTrainedModel, prompts: Sequence[Ids]) -> list[Ids]:
        """One answer to every prompt, the token that ends it included. Nothing of the model's own settings is used."""
        inner = base_model(model)
        written: list[Ids] = []
        with _generating(inner), torch.random.fork_rng(_devices(inner)):
            torch.manual_seed(self.seed)
            for start in range(0, len(prompts), self.batch_size):
                written += self._batch(inner, prompts[start : start + self.batch_size])
        return written

    def _batch(self, model: PreTrainedModel, prompts: Sequence[Ids]) -> list[Ids]:
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        rows = [[self.pad_token_id] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        input_ids = torch.tensor(rows, device=model.device)
        mask = torch.arange(width, device=model.device) >= torch.tensor(pads, device=model.device)[:, None]
        config = GenerationConfig(
            do_sample=not self.greedy,
            # No filter of likely tokens: samples are of the distribution that was trained.
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.pad_token_id,
            use_cache=True,
        )
        generate = cast(Callable[..., Tensor], model.generate)
        ids = generate(input_ids, attention_mask=mask.long(), generation_config=config, synced_gpus=self.devices > 1)
        return [self._until_end(row) for row in ids[:, width:].tolist()]

    def _until_end(self, ids: Ids) -> Ids:
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: end + 1]

    @torch.no_grad()
    def kl(
        self, policy: PreTrainedModel, reference: Reference, prompts: Sequence[Ids], answers: Sequence[Ids]
    ) -> Tensor:
        """KL(π‖π_ref) over each of the policy's own answers, in nats. Shape: (answers,), float32, on the CPU.

        The sum over an answer's tokens of the exact KL between the two next-token distributions. Its mean over answers
        that were drawn from the policy estimates the KL between the distributions over whole answers (cut off at
        `max_new_tokens`) with less variance than the log-ratio does: the token drawn is averaged out (Rao and
        Blackwell; https://arxiv.org/abs/2504.10637).
        """
        layout, sums = PaddedLayout(self.pad_token_id, chosen_only=True), []
        pairs = [TokenizedPair(0, *both, [self.pad_token_id]) for both in zip(prompts, answers, strict=True)]
        chunks = list(_chunks(pairs))
        for turn in range(self._turns(len(chunks), policy.device)):
            chunk = chunks[min(turn, len(chunks) - 1)]
            batch = layout(MicroBatch(chunk, [True] * len(chunk), len(chunk), 1)).to(policy.device)
            logps = scored_logits(policy, batch).float().log_softmax(-1)
            with reference.active() as model:
                others = scored_logits(model, batch).float().log_softmax(-1)
            tokens = (logps.exp() * (logps - others)).sum(-1)
            sums.append(tokens.new_zeros(len(chunk)).index_add(0, batch.completion_index, tokens).cpu())
        return torch.cat(sums[: len(chunks)])

    def _turns(self, chunks: int, device: torch.device) -> int:
        """As many forward passes as the device with the most needs: with sharded weights, all take part in each."""
        turns = torch.tensor(chunks, device=device)
        if self.devices > 1:
            distributed.all_reduce(turns, distributed.ReduceOp.MAX)
        return int(turns)

    def facts(self, answers: Sequence[Ids]) -> Tensor:
        """Length in tokens, whether it ended (0 or 1), and `repetition`. Shape: (answers, 3), float32."""
        return torch.tensor([[len(ids), float(ids[-1] in self.ends), repetition(ids)] for ids in answers])


def repetition(ids: Ids) -> float:
    """Share of an answer's runs of four tokens that it holds before.

    >>> repetition([1, 2, 3, 4, 5]), repetition([7] * 13)
    (0.0, 0.9)
    """
    runs = [tuple(ids[start : start + _REPEATED]) for start in range(len(ids) - _REPEATED + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _chunks(pairs: list[TokenizedPair]) -> Iterator[list[TokenizedPair]]:
    """As many at once as have `_SCORED` tokens together: each needs several times the vocabulary in fp32."""
    chunk: list[TokenizedPair] = []
    for pair in pairs:
        if chunk and sum(len(one.chosen_ids) for one in (*chunk, pair)) > _SCORED:
            yield chunk
            chunk = []
        chunk.append(pair)
    yield chunk


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model is in eval mode, and what its makers advise for generation (top-p, penalties) is put aside."""
    advised, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with evaluating(model):
            yield
    finally:
        model.generation_config = advised


def _devices(model: PreTrainedModel) -> list[torch.device]:
    """Whose generators a draw moves, besides the CPU's."""
    return [model.device] if model.device.type == "cuda" else []
