"""Batches of one shape each, so that what makes the difference can be seen: synthetic pairs and a small model."""

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STEPS = 5  # of which the first is not timed


@dataclass(frozen=True)
class Case:
    """What is measured: a model, a file of pairs in HH's format, and how they are batched."""

    what: str
    value: int | str
    prompts: int
    model: Path | None = None
    data: Path | None = None
    pairs: int = 0
    batch: int = 8
    max_length: int = 4096
    prompt: int = 256
    answer: int = 64
    answers: int = 2
    vocabulary: int = 8192


def cases() -> Iterator[Case]:
    """One thing grows at a time; the others are a prompt of 256 tokens, two answers of 64, 8 pairs, 8 k tokens."""
    for prompt in (64, 128, 256, 512, 1024):
        yield Case("prompt tokens", prompt, STEPS * 8, prompt=prompt)
    for answers in (2, 3, 5, 8):
        # Each answer is better than the next: answers - 1 pairs of a prompt.
        yield Case("answers per prompt", answers, STEPS * 2, answers=answers, batch=2 * (answers - 1))
    for batch in (2, 4, 8, 16):
        yield Case("pairs per batch", batch, STEPS * batch, batch=batch)
    for vocabulary in (8192, 32768, 131072):
        yield Case("vocabulary", vocabulary, STEPS * 4, batch=4, vocabulary=vocabulary)


def write(case: Case, folder: Path) -> Case:
    """Write the model and the pairs of a case; the case with their paths."""
    words = ["<end>", "Human:", "Assistant:", *(f"w{number}" for number in range(case.vocabulary - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(
        folder / "model"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    rows = list(_pairs(case, words[3:]))
    # The peer shuffles what it reads by seed 0; so that its order is this one, each row is put where it is taken from.
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    lines: list[str] = [""] * len(rows)
    for place, row in zip(order, rows, strict=True):
        lines[place] = json.dumps(row) + "\n"
    with gzip.open(folder / "pairs.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines)
    return replace(case, model=folder / "model", data=folder / "pairs.jsonl.gz", pairs=len(rows))


def _pairs(case: Case, words: list[str]) -> Iterator[dict[str, str]]:
    draw = random.Random(1)

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    for _ in range(case.prompts):
        prompt = f"\n\nHuman: {text(case.prompt - 2)}\n\nAssistant:"
        answers = [f" {text(case.answer - 1)}" for _ in range(case.answers)]
        for better, worse in pairwise(answers):
            yield {"chosen": prompt + better, "rejected": prompt + worse}


def draw(found: list[tuple[str, int, float, float]], path: Path) -> None:
    """Ratios of speed and of peak memory over what grows, a panel for each."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels = [(what, list(rows)) for what, rows in groupby(found, key=lambda row: row[0])]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3), constrained_layout=True)
    for axis, (what, rows) in zip(axes, panels, strict=True):
        values = [str(value) for _, value, *_ in rows]
        axis.plot(values, [speed for *_, speed, _ in rows], marker="o", color="black", label="pairs per second")
        axis.plot(
            values, [memory for *_, memory in rows], marker="s", color="gray", linestyle="--", label="peak memory"
        )
        axis.axhline(1, color="gray", linewidth=0.5)
        axis.set(xlabel=what, ylim=(0, None))
    axes[0].set_ylabel("this project over TRL")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
