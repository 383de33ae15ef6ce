"""A tiny Llama and a word-level tokenizer, created in code and pretrained in a few seconds to write reviews."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.progress import track
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lightning_dpo.reviews import world

_SPECIAL = ("<bos>", "<eos>", "<unk>")
_IGNORED = -100  # cross_entropy ignores these targets


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
        """The pretrained model, on the CPU, in float32."""
        tokenizer = self.tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LlamaForCausalLM(
                LlamaConfig(
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
            )
            _pretrain(model, _all_reviews(tokenizer, self.lengths), self.teaching_steps, self.lengths)
        return model


def _all_reviews(tokenizer: PreTrainedTokenizerFast, lengths: world.Lengths) -> list[torch.Tensor]:
    """Token ids of all reviews, with prompt, EOS and −100 after it: per film a tensor of shape (reviews, length)."""
    ids_of_films = [tokenizer([prompt + r for r in world.reviews(lengths)]).input_ids for prompt in world.prompts()]
    rows = [[torch.tensor([*ids, tokenizer.eos_token_id]) for ids in of_film] for of_film in ids_of_films]
    return [pad_sequence(of_film, batch_first=True, padding_value=_IGNORED) for of_film in rows]


def _pretrain(
    model: LlamaForCausalLM, reviews_of_films: list[torch.Tensor], steps: int, lengths: world.Lengths
) -> None:
    """Maximum likelihood on reviews with independently sampled words. Word frequencies are random per film."""
    frequencies = (0.5 * torch.randn(len(reviews_of_films), len(world.WORDS))).log_softmax(-1)
    # The probability of a review is the product of the frequencies of its words.
    # Those of all reviews of one length sum to 1, so all lengths are equally likely.
    odds = world.sums_over_words(frequencies, lengths).exp()
    prompt_length = reviews_of_films[0].shape[1] - max(lengths) - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), description="Pretraining the reference", transient=True):
        sampled = odds.multinomial(256 // len(reviews_of_films), replacement=True)
        rows = torch.cat([ids[reviews] for ids, reviews in zip(reviews_of_films, sampled, strict=True)])
        # Causal attention ignores the padding after a review, whatever its ids are.
        logits = model(rows[:, :-1].clamp(min=0)).logits[:, prompt_length - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, prompt_length:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
