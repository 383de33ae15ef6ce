"""Sampled answers of policy and reference, and the KL divergence between the two."""

import logging
import math
from typing import TYPE_CHECKING, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_dpo.callbacks import token_log_ratios
from lightning_dpo.callbacks.reference_answers import ReferenceAnswers
from lightning_dpo.callbacks.sample_output import Row, SampleOutput
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.data.tokens.prompts import Answer, answer_ends, answers_in, sample_prompts
from lightning_dpo.data.tokens.special_tokens import special_tokens
from lightning_dpo.models.generation import Ids, Writer
from lightning_dpo.models.preparation import evaluating
from lightning_dpo.models.reference import Reference
from lightning_dpo.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

log = logging.getLogger(__name__)

_FACTS = ("length", "ended", "repetition")
_COMPARED = 8  # prompts for which log-ratios of tokens are computed


class Samples(Callback):
    """Samples answers to the same validation prompts after every validation, always with the same seed.

    Logs `val/kl` (nats per answer) and `val/kl_stderr`, its standard error over the answers;
    `val/samples/{length,length_stderr,ended,repetition}` of the policy's answers and `val/samples/reference/...` of the
    reference's. Some answers are printed. All are written to `samples.jsonl` and to a table in wandb. For the first
    prompts, `log_ratios.jsonl` has log π − log π_ref of each token of these answers and of those in the data, at the
    end of training. Each device samples the answers to its share of the prompts.

    Args:
        folder: Folder of these files.
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
        self.folder, self.answers, self.greedy = RunFolder(folder), answers, greedy
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self.per_prompt = per_prompt
        self._prompts: list[Ids] = []
        self._last: list[dict[str, Answer]] = []
        self._in_data: list[dict[str, Answer]] = []
        self._reference: list[Ids] | None = None
        self._output = SampleOutput(self.folder.samples, shown)

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
            self._in_data = answers_in(data.val_pairs, self._prompts)

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
        self._last = self._answers(trainer, policy)
        if trainer.is_global_zero:
            self._output(self._rows(trainer, self._last), special_tokens(data.tokenizer).values(), trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            self._compare(module, data)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the log-ratios of tokens, once: for a large model on a CPU, that takes longer than sampling."""
        if self._last:
            self._compare(cast("DPOModule", pl_module), PreferenceDataModule.of(trainer, self))

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

    def _answers(self, trainer: Trainer, policy: list[Ids]) -> list[dict[str, Answer]]:
        """The answers to each prompt: those in the data, the policy's, and the reference's. A collective call."""
        sampled = {"policy": policy} | ({"reference": self._reference} if self._reference else {})
        whole = {side: self._all(answers, trainer) for side, answers in sampled.items()}
        return [
            in_data | {side: Answer(answers[index]) for side, answers in whole.items()}
            for index, in_data in enumerate(self._in_data)
        ]

    def _rows(self, trainer: Trainer, answers: list[dict[str, Answer]]) -> list[Row]:
        """Prompts and answers as text."""
        decode = PreferenceDataModule.of(trainer, self).tokenizer.decode
        return [
            {"step": trainer.global_step, "prompt": decode(prompt)}
            | {side: decode(answer.ids) for side, answer in sides.items()}
            for prompt, sides in zip(self._prompts, answers, strict=True)
        ]

    def _compare(self, module: "DPOModule", data: PreferenceDataModule) -> None:
        """Write the log-ratios of tokens. All devices compute the same, because sharded weights need all of them."""
        reference, pad, rows = module.reference, data.tokenizer.eos_token_id, []
        if reference is None or not reference.answers or module.policy_is_reference:
            return
        with evaluating(module.policy), module.trainer.precision_plugin.val_step_context():
            for prompt, sides in zip(self._prompts, self._last[:_COMPARED], strict=False):
                values = token_log_ratios.log_ratios(module, reference, prompt, sides.values(), pad)
                rows.append((prompt, sides, values))
        if module.trainer.is_global_zero:
            token_log_ratios.write(self.folder.log_ratios, data.tokenizer, rows)

    def _all(self, answers: list[Ids], trainer: Trainer) -> list[Ids]:
        # Devices can gather only tensors of equal shape: -1, which is not a token id, fills them up.
        rows = [ids + [-1] * (self.max_new_tokens - len(ids)) for ids in answers]
        return [[token for token in row if token >= 0] for row in self._gathered(torch.tensor(rows), trainer).tolist()]


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
