"""Reports the distance of the policy from the known optimum, after every validation and at the end of a run."""

from contextlib import nullcontext
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_dpo.batch import CompletionLogps, MicroBatch, TokenizedPair
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.models.generation import Writer
from lightning_dpo.module import DPOModule
from lightning_dpo.reviews import world
from lightning_dpo.reviews.closed_form import ClosedForm, reward_accuracy
from lightning_dpo.run_folder import RunFolder, write_table

_LABELS = {
    "reward": ("expected reward", "reference_reward", "optimal_reward"),
    "words": ("expected number of words", "reference_words", None),
    "reward_accuracy": ("accuracy on true rewards", None, None),
    "kl_reference": ("KL(policy || reference), nats", None, "optimal_kl_reference"),
    "kl_optimum": ("KL(policy || optimum), nats", "kl_optimum_before", None),
    "mass_on_reviews": ("probability of writing a review", None, None),
}

# The results of `ClosedForm.report`, and those that need β.
_ALWAYS = ("reward", "reference_reward", "kl_reference", "mass_on_reviews", "frontier_reward")
_OF_ONE_LENGTH = ("best_accuracy",)
_OF_SEVERAL_LENGTHS = ("words", "reference_words", "reward_accuracy")
_WITH_BETA = ("optimal_reward", "optimal_kl_reference", "kl_optimum", "kl_optimum_before")


class ClosedFormReport(Callback):
    """Logs `closed_form/*` and prints them as a table, with reviews before and after.

    The optimum maximizes E[r] − β KL(π‖π_ref). It is reported for losses that are least there.

    Args:
        samples: Reviews per film to show before and after training.
        folder: Where `frontier.csv` is written: β, KL and expected reward of the best policies; None: nowhere.
        lengths: Numbers of words of a review. With several, the expected length is reported, and how well the loss's
            rewards agree with the true ones.
    """

    def __init__(self, samples: int = 3, folder: str | None = None, lengths: world.Lengths = world.DEFAULT) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples!r}")
        self.samples, self.folder, self.lengths = samples, folder, lengths
        self.before: list[list[str]] = []
        self.world: ClosedForm | None = None

    def metric_names(self, pl_module: LightningModule) -> set[str]:
        """The metrics that this callback logs."""
        of_lengths = _OF_SEVERAL_LENGTHS if len(self.lengths) > 1 else _OF_ONE_LENGTH
        of_beta = () if cast(DPOModule, pl_module).loss.kl_beta is None else _WITH_BETA
        return {f"closed_form/{name}" for name in (*_ALWAYS, *of_lengths, *of_beta)}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enumerate the reference, which the policy starts from."""
        tokenizer, module = PreferenceDataModule.of(trainer, self).tokenizer, cast(DPOModule, pl_module)
        with module.reference.active() if module.reference else nullcontext(module.policy) as start:
            words = world.word_counts(self.lengths) if len(self.lengths) > 1 else None
            reference = all_logps(start, tokenizer, self.lengths)
            self.world = ClosedForm(world.rewards(self.lengths), reference, module.loss.kl_beta, words)
            self.before = sample_reviews(start, tokenizer, self.samples, trainer.world_size, self.lengths)
        if self.folder and trainer.is_global_zero:
            write_table(RunFolder(self.folder).frontier, [("beta", "kl", "reward"), *self.world.frontier()])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of the current policy."""
        if self.world is None:  # a validation without a fit
            return
        values = self._values(trainer, cast(DPOModule, pl_module), self.world)
        pl_module.log_dict(
            {f"closed_form/{name}": value for name, value in values.items()}, batch_size=1, sync_dist=True
        )

    def _values(self, trainer: Trainer, module: DPOModule, known: ClosedForm) -> dict[str, float]:
        policy = all_logps(module.policy, PreferenceDataModule.of(trainer, self).tokenizer, self.lengths)
        values = known.report(policy)
        if known.words is not None:
            tokens = (known.words + 1).float().expand_as(policy)  # with EOS
            rewards = module.loss.rewards(CompletionLogps(policy, tokens), CompletionLogps(known.reference, tokens))
            values["reward_accuracy"] = reward_accuracy(rewards, known.rewards, world.probabilities(self.lengths))
        return values

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table and the reviews, after the progress bar has ended."""
        if stage != "fit" or self.world is None:
            return
        tokenizer, module = PreferenceDataModule.of(trainer, self).tokenizer, cast(DPOModule, pl_module)
        values = self._values(trainer, module, self.world)
        current = module.validated_step == trainer.global_step
        accuracy = trainer.callback_metrics.get("val/rewards/accuracies") if current else None
        after = sample_reviews(module.policy, tokenizer, self.samples, trainer.world_size, self.lengths)
        if not trainer.is_global_zero:  # only here, because all devices take part in forward passes
            return
        console = Console()
        # Relative to the reference, all rewards of the reference are 0, so all its pairs are ties. A loss without a
        # reference ranks them, and nothing has measured how well.
        before = "0.500" if module.loss.needs_reference else ""
        console.print(_table(values, None if accuracy is None else float(accuracy), before))
        console.print(_reviews(self.before, after, self.lengths))


@torch.no_grad()
def all_logps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lengths: world.Lengths = world.DEFAULT
) -> Tensor:
    """Log-prob of every review of every film, including EOS. Shape: (films, reviews), on the CPU."""
    encode = Tokenization(tokenizer, max_length=64, on_overlong="drop").encode
    layout = PaddedLayout(tokenizer.pad_token_id, chosen_only=True)
    table = []
    for prompt in world.prompts():
        rows = [TokenizedPair(0, *encode(prompt, review, review)) for review in world.reviews(lengths)]
        batch = layout(MicroBatch(rows, [True] * len(rows), len(rows), len(rows))).to(model.device)
        table.append(completion_logps(model, batch).sums.cpu())
    return torch.stack(table)


def sample_reviews(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    devices: int = 1,
    lengths: world.Lengths = world.DEFAULT,
) -> list[list[str]]:
    """`count` samples of reviews per film at temperature 1, with a fixed seed. The global generator is unchanged."""
    ends, tokens = frozenset({tokenizer.eos_token_id}), max(lengths) + 2
    writer = Writer(ends, tokenizer.pad_token_id, tokens, batch_size=count, devices=devices)
    prompts = [ids for ids in tokenizer(world.prompts()).input_ids for _ in range(count)]
    texts = [text.strip() for text in tokenizer.batch_decode(writer.answers(model, prompts), skip_special_tokens=True)]
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def _table(values: dict[str, float], accuracy: float | None, accuracy_before: str) -> Table:
    table = Table(
        "", "reference", "policy", "optimum", title="Comparison with the closed form", title_justify="left",
        caption="Rewards and KLs are conditioned on the output being a review.", caption_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    # Without β the optimum is not defined, so the rows that need it are left out.
    known = {name: row for name, row in _LABELS.items() if name in values}
    for name, (label, before, best) in known.items():
        table.add_row(label, *(f"{values[key]:.3f}" if key in values else "" for key in (before, name, best)))
    if accuracy is not None:
        best = f"{values['best_accuracy']:.3f}" if "best_accuracy" in values else ""
        table.add_row("accuracy on validation pairs", accuracy_before, f"{accuracy:.3f}", best)
    return table


def _reviews(before: list[list[str]], after: list[list[str]], lengths: world.Lengths) -> Table:
    best = world.rewards(lengths).argmax(-1)
    table = Table("film", "before", "after", "best", title="Reviews", title_justify="left")
    for film, old, new, review in zip(world.FILMS, before, after, best, strict=True):
        table.add_row(film, "\n".join(old), "\n".join(new), world.reviews(lengths)[review].strip(), end_section=True)
    return table
