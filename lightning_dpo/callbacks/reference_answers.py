"""Sampled answers of the reference, stored on disk for later runs that sample the same ones."""

import json
from collections.abc import Sequence

import torch

from lightning_dpo.models.digests import code_digest, digest_of, store, stored
from lightning_dpo.models.generation import Ids, Writer
from lightning_dpo.training.policy_module import PolicyModule
from lightning_dpo.training.rank_checks import on_all_devices


class ReferenceAnswers:
    """The answers of a module's reference to some prompts.

    Args:
        module: The module.
        writer: Generates answers.
        prompts: The prompts of this device.
    """

    def __init__(self, module: PolicyModule, writer: Writer, prompts: Sequence[Ids]) -> None:
        precision, device = str(module.trainer.precision), module.device
        facts = [repr(sorted(module.scored_with.items())), precision, device.type, code_digest("models")]
        facts += [repr(writer), repr(sorted(writer.ends)), repr(prompts)]
        self._key, self._device = digest_of((fact.encode() for fact in facts), digits=64), device

    def read(self) -> list[Ids] | None:
        """The stored answers; None if there are none. A collective call."""
        text = stored(self._key)
        known = on_all_devices(torch.tensor(text is not None, device=self._device))
        return json.loads(text) if known and text is not None else None

    def write(self, answers: list[Ids]) -> None:
        """Store the answers."""
        store(self._key, json.dumps(answers))
