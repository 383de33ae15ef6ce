"""A tiny Llama and a word-level tokenizer, created in code and pretrained in a few seconds to write reviews."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from rich.progress import track
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lightning_dpo.shared_prefix.attention  # noqa: F401  registers it
from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.layouts import SharedLayout
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.logps.forward import ATTENTION, attention_of
from lightning_dpo.reviews import world

_SPECIAL = ("<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class TinyReviewer:
    """A causal LM with two layers that writes reviews: the policy and reference of the default run.

    Args:
        hidden_size: Hidden size of the model.
        num_layers: Number of layers.
        teaching_steps: Pretraining steps with 256 reviews each. After 400, reviews have more than 0.99 of the mass.
        lengths: Numbers of words of its reviews, all equally likely.
        attention: transformers' `attn_implementation`.
        seed: Random seed of weights, word frequencies and pretraining samples.
    """

    hidden_size: int = 64
    num_layers: int = 2
    teaching_steps: int = 400
    lengths: world.Lengths = world.DEFAULT
    attention: str = "sdpa"
    seed: int = 0

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer with one token per word and BOS before the first."""
        texts = " ".join(world.prompts() + list(world.WORDS)).split()
        vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*_SPECIAL, *texts]))}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
        )

    def policy(self) -> LlamaForCausalLM:
        """The pretrained model, on the CPU, in float32. The jobs of a sweep in one process share the pretraining."""
        weights = pretrained_weights(replace(self, lengths=tuple(self.lengths), attention="sdpa"))
        with _on_cpu_in_float32():
            model = LlamaForCausalLM(self.config())
        model.load_state_dict(weights)
        return model

    def config(self) -> LlamaConfig:
        """The config of the model."""
        tokenizer = self.tokenizer()
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation=self.attention,  # type: ignore[call-arg]  # taken by every config
        )


@cache
def pretrained_weights(reviewer: TinyReviewer) -> dict[str, Tensor]:
    """The pretrained weights, computed once in a process. They must not be changed."""
    with _on_cpu_in_float32():
        torch.manual_seed(reviewer.seed)
        model = LlamaForCausalLM(reviewer.config())
        reviews = _all_reviews(reviewer.tokenizer(), reviewer.lengths)
        _pretrain(model, reviews, reviewer.teaching_steps, reviewer.lengths)
    return model.state_dict()


@contextmanager
def _on_cpu_in_float32() -> Iterator[None]:
    """Context with these defaults and a random state of its own: Lightning opens models with those of the Trainer."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _all_reviews(tokenizer: PreTrainedTokenizerFast, lengths: world.Lengths) -> list[list[TokenizedPair]]:
    """All reviews of each film as token ids, with EOS. They are chosen completions, without rejected ones."""
    prompts, end = tokenizer(world.prompts()).input_ids, tokenizer.eos_token_id
    reviews = [[*ids, end] for ids in tokenizer(world.reviews(lengths), add_special_tokens=False).input_ids]
    return [[TokenizedPair(0, prompt, review, []) for review in reviews] for prompt in prompts]


def _pretrain(
    model: LlamaForCausalLM, reviews_of_films: list[list[TokenizedPair]], steps: int, lengths: world.Lengths
) -> None:
    """Maximum likelihood on reviews with independently sampled words. Word frequencies are random per film."""
    frequencies = (0.5 * torch.randn(len(reviews_of_films), len(world.WORDS))).log_softmax(-1)
    # The probability of a review is the product of the frequencies of its words.
    # Those of all reviews of one length sum to 1, so all lengths are equally likely.
    odds = world.sums_over_words(frequencies, lengths).exp()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    attention = attention_of(model)
    model.set_attn_implementation(ATTENTION)
    # Lightning opens models in a context that intercepts every function of torch, which takes a fifth of a step here.
    with torch._C.DisableTorchFunction():
        for _ in track(range(steps), description="Pretraining the reference", transient=True):
            sampled = odds.multinomial(256 // len(reviews_of_films), replacement=True)
            loss = _loss(model, reviews_of_films, sampled)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.set_attn_implementation(attention)


def _loss(model: LlamaForCausalLM, reviews_of_films: list[list[TokenizedPair]], sampled: Tensor) -> Tensor:
    """Mean negative log-prob per token of the sampled reviews, shape (films, samples). Each is computed once."""
    counts = [Counter(of_film) for of_film in sampled.tolist()]
    rows = [reviews[index] for reviews, count in zip(reviews_of_films, counts, strict=True) for index in count]
    weights = torch.tensor([count for of_film in counts for count in of_film.values()], dtype=torch.float32)
    batch = SharedLayout(chosen_only=True)(MicroBatch(rows, [True] * len(rows), len(rows), 1))
    logps = completion_logps(model, batch).select(batch.chosen)
    return -(weights * logps.sums).sum() / (weights * logps.lengths).sum()
