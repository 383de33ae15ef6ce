"""A tiny Llama and a word-level tokenizer, made in code and taught in a few seconds to write reviews."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.progress import track
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lightning_dpo.reviews import world

_SPECIAL = ("<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class TinyReviewer:
    """A causal LM of two layers that writes reviews, each critic's habit of its own: the reference of the default run.

    Args:
        hidden_size: Width of the model.
        num_layers: Depth.
        teaching_steps: Steps of 256 reviews each; 400 put more than 0.99 of its mass on the reviews.
        attention: transformers' `attn_implementation`.
        seed: Of the weights, the habits and the lessons.
    """

    hidden_size: int = 64
    num_layers: int = 2
    teaching_steps: int = 400
    attention: str = "sdpa"
    seed: int = 0

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One token per word, a beginning of sequence before the first."""
        texts = " ".join(world.prompts() + list(world.WORDS)).split()
        vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*_SPECIAL, *texts]))}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
        )

    def policy(self) -> LlamaForCausalLM:
        """The taught model, on the CPU, in float32."""
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
            _teach(model, _lessons(tokenizer), self.teaching_steps)
        return model


def _lessons(tokenizer: PreTrainedTokenizerFast) -> list[torch.Tensor]:
    """Token ids of every review of a film, prompt and end of sequence included, one tensor (reviews, length) a film."""
    return [
        torch.tensor(
            [[*ids, tokenizer.eos_token_id] for ids in tokenizer([prompt + r for r in world.reviews()]).input_ids]
        )
        for prompt in world.prompts()
    ]


def _teach(model: LlamaForCausalLM, lessons: list[torch.Tensor], steps: int) -> None:
    """Maximum likelihood on reviews whose words are drawn independently, by habits drawn once for every film."""
    habits = (0.5 * torch.randn(len(lessons), len(world.WORDS))).log_softmax(-1)
    odds = habits[:, torch.tensor(world.REVIEWS)].sum(-1).exp()
    prompt_length = lessons[0].shape[1] - world.REVIEW_LENGTH - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), description="Teaching the reference", transient=True):
        drawn = odds.multinomial(256 // len(lessons), replacement=True)
        rows = torch.cat([lesson[reviews] for lesson, reviews in zip(lessons, drawn, strict=True)])
        logits = model(rows[:, :-1]).logits[:, prompt_length - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, prompt_length:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
