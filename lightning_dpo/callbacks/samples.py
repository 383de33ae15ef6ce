"""Sampled answers of policy and reference, and the KL divergence between the two."""

import json
import logging
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

import rich
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_dpo.callbacks.reference_answers import ReferenceAnswers
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.tokens.prompts import answer_ends, sample_prompts
from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.models.generation import Ids, Writer
from lightning_dpo.models.reference import Reference
from lightning_dpo.printable import ending, printable
from lightning_dpo.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

log = logging.getLogger(__name__)

_FACTS = ("length", "ended", "repetition")
_COLUMNS = ("step", "prompt", "policy", "reference")
_SHOWN = 400  # characters of a prompt


class Samples(Callback):
    """Samples answers to the same validation prompts after every validation, always with the same seed.

    Logs `val/kl` (nats per answer) and `val/kl_stderr`, its standard error over the answers;
    `val/samples/{length,length_stderr,ended,repetition}` of the policy's answers and `val/samples/reference/...` of the
    reference's. Some answers are printed. All are written to `samples.jsonl` and to a table in wandb. Each device
    samples the answers to its share of the prompts.

    Args:
        folder: Folder of `samples.jsonl`.
        answers: Maximum number of answers.
        per_prompt: Maximum number of answers to a prompt.
        shown: Number of answers to print.
        max_new_tokens: Maximum length of an answer, in tokens.
        greedy: Always take the most likely token. `val/kl` is not logged then, because greedy answers are not samples.
        batch_size: Generation batch size.
        seed: Random seed for sampling.
    """

    def __init__(
        self,
        folder: str,
        answers: int = 32,
        per_prompt: int = 1,
        shown: int = 2,
        max_new_tokens: int = 128,
        greedy: bool = False,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("answers", answers),
            ("per_prompt", per_prompt),
            ("max_new_tokens", max_new_tokens),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        self.path, self.answers, self.shown, self.greedy = RunFolder(folder).samples, answers, shown, greedy
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self.per_prompt = per_prompt
        self._prompts: list[Ids] = []
        self._reference: list[Ids] | None = None
        self._table: Any = None

    def metric_names(self, pl_module: LightningModule) -> set[str]:
        """The metrics that this callback logs."""
        facts = (*_FACTS, "length_stderr")
        names = {f"val/samples/{fact}" for fact in facts}
        module = cast("DPOModule", pl_module)
        if module.loss.needs_reference and module.make_reference.answers:
            names |= {f"val/samples/reference/{fact}" for fact in facts}
            names |= set() if self.greedy else {"val/kl", "val/kl_stderr"}
        return names

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the prompts, once.

        Raises:
            UserError: No validation prompt leaves room for an answer.
        """
        data = PreferenceDataModule.of(trainer, self)
        if not self._prompts:
            wanted = self.answers, self.per_prompt, data.max_length, self.max_new_tokens
            self._prompts, tokens = sample_prompts(data.val_pairs, *wanted)
            if tokens < self.max_new_tokens:
                log.info("Sampled answers have at most %d tokens, because of data.max_length.", tokens)
            self.max_new_tokens = tokens

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample, compute the metrics, log them, and print some answers."""
        if trainer.sanity_checking:
            return
        module, data = cast("DPOModule", pl_module), PreferenceDataModule.of(trainer, self)
        # The seed depends on the rank, because all devices sample answers to different prompts.
        writer = Writer(
            answer_ends(data.val_pairs, data.tokenizer), data.tokenizer.eos_token_id, self.max_new_tokens, self.greedy,
            self.batch_size, self.seed + trainer.global_rank, trainer.world_size,
        )  # fmt: skip
        prompts = device_share(self._prompts, trainer.global_rank, trainer.world_size)
        # Lightning enables autocast only in validation_step, and not in hooks of callbacks.
        with trainer.precision_plugin.val_step_context():
            reference = module.reference if module.reference and module.reference.answers else None
            # Before the first update, the policy samples the reference's answers, with the same random numbers.
            same = reference is not None and module.policy_is_reference
            if reference is not None and self._reference is None:
                self._reference = self._of_reference(module, reference, writer, prompts)
            policy = self._reference if same and self._reference else writer.answers(module.policy, prompts)
            metrics = self._measured("val/samples/", writer.facts(policy), trainer)
            if reference is not None and self._reference is not None:
                metrics |= self._measured("val/samples/reference/", writer.facts(self._reference), trainer)
                if not self.greedy:
                    kls = torch.zeros(len(prompts)) if same else writer.kl(module.policy, reference, prompts, policy)
                    metrics |= self._kl(kls, trainer)
        # The values are equal on all devices, so the mean changes nothing; without sync_dist, Lightning warns.
        on_device = {name: value.to(pl_module.device, torch.float32) for name, value in metrics.items()}
        pl_module.log_dict(on_device, batch_size=1, sync_dist=True)
        rows = self._rows(trainer, policy)
        if trainer.is_global_zero:
            self._write(rows)
            self._show(rows, special_tokens(data.tokenizer).values())
            self._to_wandb(rows, trainer)

    def _of_reference(self, module: "DPOModule", reference: Reference, writer: Writer, prompts: list[Ids]) -> list[Ids]:
        """The answers of the reference, which another run may have sampled."""
        cache = ReferenceAnswers(module, writer, prompts)
        if (answers := cache.read()) is None:
            with reference.active() as model:
                answers = writer.answers(model, prompts)
            cache.write(answers)
        return answers

    def _measured(self, prefix: str, facts: Tensor, trainer: Trainer) -> dict[str, Tensor]:
        facts = self._gathered(facts, trainer)
        measured = {f"{prefix}{name}": mean for name, mean in zip(_FACTS, facts.mean(0), strict=True)}
        return measured | {f"{prefix}length_stderr": _standard_error(facts[:, _FACTS.index("length")])}

    def _kl(self, kls: Tensor, trainer: Trainer) -> dict[str, Tensor]:
        kls = self._gathered(kls, trainer).double()
        return {"val/kl": kls.mean(), "val/kl_stderr": _standard_error(kls)}

    def _gathered(self, values: Tensor, trainer: Trainer) -> Tensor:
        """The values of all devices in the order of the prompts, without padding. Shape: (prompts, ...)."""
        if trainer.world_size == 1:
            return values
        gathered = trainer.strategy.all_gather(values.to(trainer.strategy.root_device)).cpu()
        return in_order(gathered, len(self._prompts))

    def _rows(self, trainer: Trainer, policy: list[Ids]) -> list[dict[str, Any]]:
        """Prompts and answers as text."""
        decode = PreferenceDataModule.of(trainer, self).tokenizer.decode
        sides = {"policy": policy} | ({"reference": self._reference} if self._reference else {})
        texts = {side: [decode(ids) for ids in self._all(answers, trainer)] for side, answers in sides.items()}
        return [
            {"step": trainer.global_step, "prompt": decode(prompt)}
            | {side: answers[index] for side, answers in texts.items()}
            for index, prompt in enumerate(self._prompts)
        ]

    def _all(self, answers: list[Ids], trainer: Trainer) -> list[Ids]:
        # Devices can gather only tensors of equal shape: -1, which is not a token id, fills them up.
        rows = [ids + [-1] * (self.max_new_tokens - len(ids)) for ids in answers]
        return [[token for token in row if token >= 0] for row in self._gathered(torch.tensor(rows), trainer).tolist()]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Append the answers. A resumed run replaces the answers of steps that it repeats."""
        old = [json.loads(line) for line in self.path.open(encoding="utf-8")] if self.path.exists() else []
        # A resumed run repeats the validations after its checkpoint.
        kept = [row for row in old if row["step"] < rows[0]["step"]]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in (*kept, *rows))
        write_atomically(self.path, "".join(lines))

    def _show(self, rows: list[dict[str, Any]], markers: Collection[str]) -> None:
        columns = [name for name in _COLUMNS[1:] if name in rows[0]]
        table = Table(*columns, title=f"Answers at step {rows[0]['step']}", title_justify="left", show_lines=True)
        for row in rows[: self.shown]:
            texts = (ending(row[name], _SHOWN) if name == "prompt" else row[name] for name in columns)
            # `Text`, because rich would interpret brackets in an answer as markup.
            cells = [Text(printable(text)) for text in texts]
            for cell in cells:
                cell.highlight_words(list(markers), "dim")
            table.add_row(*cells)
        if self.shown:
            rich.get_console().print(table)

    def _to_wandb(self, rows: list[dict[str, Any]], trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                self._table = self._table or wandb.Table(list(rows[0]), log_mode="INCREMENTAL")
                for row in rows:
                    self._table.add_data(*row.values())
                logger.experiment.log({"samples": self._table, "trainer/global_step": trainer.global_step})


def device_share(prompts: list[Ids], rank: int, devices: int) -> list[Ids]:
    """The prompts of one device. Every device has the same number, because devices wait for each other.

    >>> [device_share([[0], [1], [2]], rank, devices=2) for rank in range(2)]
    [[[0], [2]], [[1], [0]]]
    """
    count = len(prompts)
    return [prompts[(rank + devices * turn) % count] for turn in range(math.ceil(count / devices))]


def in_order(values: Tensor, count: int) -> Tensor:
    """Values by device, shape (devices, share, ...), in the order of the prompts. Shape: (count, ...)."""
    return values.transpose(0, 1).flatten(0, 1)[:count]


def _standard_error(values: Tensor) -> Tensor:
    """Standard error of the mean of `values`; NaN for a single value."""
    return values.std() / math.sqrt(len(values)) if len(values) > 1 else torch.tensor(math.nan)
