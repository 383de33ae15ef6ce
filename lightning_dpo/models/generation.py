"""Generation of answers, their statistics, and the KL divergence from the reference on them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed
from transformers import GenerationConfig, PreTrainedModel

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps.forward import base_model, router_arguments, scored_logits
from lightning_dpo.models.preparation import evaluating
from lightning_dpo.models.reference import Reference

Ids = list[int]

_REPEATED = 4  # n of the n-grams that `repetition` counts
_SCORED = 256  # tokens whose next-token distributions are compared at once: each needs vocabulary × 4 bytes


@dataclass(frozen=True)
class Writer:
    """Generates answers.

    Args:
        ends: Tokens that end an answer.
        pad_token_id: Any token.
        max_new_tokens: Maximum length of an answer, in tokens.
        greedy: Always take the most likely token, instead of sampling at temperature 1.
        batch_size: Generation batch size.
        seed: Random seed for sampling. The global generator is not changed.
        devices: Number of devices. They generate the same number of answers, and wait for each other.
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
        """One answer per prompt, including its end token. The model's own generation config is not used."""
        inner = base_model(model)
        answers: list[Ids] = []
        # Training must not depend on how many answers are sampled in between.
        with _generating(inner), torch.random.fork_rng(_devices(inner)):
            torch.manual_seed(self.seed)
            for start in range(0, len(prompts), self.batch_size):
                answers += self._batch(inner, prompts[start : start + self.batch_size])
        return answers

    def _batch(self, model: PreTrainedModel, prompts: Sequence[Ids]) -> list[Ids]:
        width = max(map(len, prompts))
        # Generation needs padding on the left, so that new tokens follow the prompt directly.
        pads = [width - len(prompt) for prompt in prompts]
        rows = [[self.pad_token_id] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        input_ids = torch.tensor(rows, device=model.device)
        mask = torch.arange(width, device=model.device) >= torch.tensor(pads, device=model.device)[:, None]
        # No top-k or top-p: samples must come from the distribution that is trained. 0 and not None: `generate` would
        # replace None with its default of 50, and val/kl would be biased.
        sampling = {} if self.greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            do_sample=not self.greedy,
            **sampling,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.pad_token_id,
            use_cache=True,
        )
        # With `synced_gpus`, devices continue forward passes until all have finished, which FSDP needs.
        generate = cast(Callable[..., Tensor], model.generate)
        try:
            ids = generate(
                input_ids,
                attention_mask=mask.long(),
                generation_config=config,
                synced_gpus=self.devices > 1,
                **router_arguments(model),
            )
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise UserError(
                "no answers can be sampled: a next-token probability is not finite. Likely cause: too "
                "large a learning rate"
            ) from error
        return [self._until_end(row) for row in ids[:, width:].tolist()]

    def _until_end(self, ids: Ids) -> Ids:
        end = next((index for index, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: end + 1]

    @torch.no_grad()
    def kl(
        self, policy: PreTrainedModel, reference: Reference, prompts: Sequence[Ids], answers: Sequence[Ids]
    ) -> Tensor:
        """KL(π‖π_ref) on each of the policy's own answers, in nats. Shape: (answers,), float32, on the CPU.

        The sum over an answer's tokens of the exact KL between the two next-token distributions. Its mean over samples
        of the policy estimates the KL between the distributions over whole answers (truncated at `max_new_tokens`). It
        has less variance than the log-ratio, because it does not depend on which token was sampled at each position
        (Rao-Blackwellization; https://arxiv.org/abs/2504.10637).
        """
        layout, sums = PaddedLayout(self.pad_token_id, chosen_only=True), []
        pairs = [TokenizedPair(0, *both, [self.pad_token_id]) for both in zip(prompts, answers, strict=True)]
        chunks = list(_chunks(pairs))
        # A device without chunks left repeats its last one, because collectives of FSDP need all devices.
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
        """Number of forward passes: the maximum over devices, because with sharded weights each needs all of them."""
        turns = torch.tensor(chunks, device=device)
        if self.devices > 1:
            distributed.all_reduce(turns, distributed.ReduceOp.MAX)
        return int(turns)

    def facts(self, answers: Sequence[Ids]) -> Tensor:
        """Length in tokens, 1 if it ended or 0, and `repetition` of each answer. Shape: (answers, 3), float32."""
        return torch.tensor([[len(ids), float(ids[-1] in self.ends), repetition(ids)] for ids in answers])


def repetition(ids: Ids) -> float:
    """Share of an answer's 4-grams that occur earlier in it.

    >>> repetition([1, 2, 3, 4, 5]), repetition([7] * 13)
    (0.0, 0.9)
    """
    ngrams = [tuple(ids[start : start + _REPEATED]) for start in range(len(ids) - _REPEATED + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _chunks(pairs: list[TokenizedPair]) -> Iterator[list[TokenizedPair]]:
    """Consecutive pairs with at most `_SCORED` answer tokens together, or a single longer one."""
    chunk: list[TokenizedPair] = []
    for pair in pairs:
        if chunk and sum(len(one.chosen_ids) for one in (*chunk, pair)) > _SCORED:
            yield chunk
            chunk = []
        chunk.append(pair)
    yield chunk


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    """Context in which the model is in eval mode and its own generation config (top-p, penalties) is not used."""
    # `generate` takes fields that are None in the given config from the model's own one, so that must be empty.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with evaluating(model):
            yield
    finally:
        model.generation_config = own


def _devices(model: PreTrainedModel) -> list[torch.device]:
    """Devices, besides the CPU, whose random generator sampling uses."""
    return [model.device] if model.device.type == "cuda" else []
