"""What a training depends on. A checkpoint stores it, and a run that resumes is compared with it."""

import logging
import re
from collections.abc import Collection, Mapping
from importlib.metadata import version

from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)

Facts = Mapping[str, str]
"""Settings or digests by name. The names are part of error messages: config keys or short descriptions."""

REFERENCE = "reference"
"""The fact of kind `weights` that a reference has."""

WAIVABLE = (
    "weights", "model", "tokenizer", "data", "loss", "adapter", "optimizer", "scheduler", "precision", "clipping",
    "layout",
)  # fmt: skip
"""Kinds of differences that `resume.allow` can waive. The resumed run then uses the new value.

Not among them are `order`, the settings that define the position within an epoch, and `shape`, the settings without
which the tensors of the checkpoint cannot be loaded.
"""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PACKAGES = ("torch", "lightning", "transformers", "peft", "datasets")


class Identity:
    """The settings, weights and data that a training depends on, by kind.

    Lightning restores optimizer and schedule from the checkpoint and ignores those of the config. Starting weights, the
    reference and the base of an adapter are not in the checkpoint at all. Without a comparison, a resumed run would
    silently continue another training.

    Args:
        allow: Kinds in which a resumed run may differ from its checkpoint.

    Attributes:
        facts: The facts known so far, by kind and name.
        waived: Kinds that differ, and may.
        saved: The facts in the checkpoint that the run resumes from; empty if there is none.

    Raises:
        UserError: A kind does not exist or cannot be waived.
    """

    def __init__(self, allow: Collection[str] = ()) -> None:
        if isinstance(allow, str) or not isinstance(allow, Collection):
            raise UserError(f"resume.allow={allow} must be a list: [{allow}]")
        if unknown := sorted(set(allow) - set(WAIVABLE)):
            raise UserError(f"resume.allow: {unknown[0]!r} is not one of {', '.join(WAIVABLE)}")
        self.allow = frozenset(allow)
        self.facts: dict[str, dict[str, str]] = {}
        self.waived: set[str] = set()
        self.saved: Mapping[str, Facts] = {}
        self._logged: set[str] = set()

    def add(self, kind: str, facts: Facts) -> None:
        """Add facts, and compare them with the checkpoint if it has been read.

        Usually, Lightning restores the checkpoint before all facts are known. With FSDP, it restores later.

        Raises:
            UserError: They differ; the message contains the difference.
        """
        # The representation of a function contains its address, which differs in every process.
        plain = {name: _ADDRESS.sub("", value) for name, value in facts.items()}
        self.facts[kind] = self.facts.get(kind, {}) | plain
        self._check(self.saved, [kind])

    def resumes(self, saved: Mapping[str, Facts]) -> None:
        """Compare with the facts in a checkpoint: those that are known now, and the others as soon as they are.

        Raises:
            UserError: They differ; the message contains all differences.
        """
        self.saved, self.waived, self._logged = saved, set(), set()
        self._check(saved, list(saved))

    def opens(self, saved: Mapping[str, Facts]) -> None:
        """Compare base model and adapter with a checkpoint of which only the weights are used.

        Raises:
            UserError: They differ; the message contains all differences.
        """
        found = {kind: dict(saved.get(kind, {})) for kind in ("weights", "adapter", "shape")}
        found["weights"].pop(REFERENCE, None)
        changed = [text for kind, facts in found.items() for text in _changed(facts, self.facts.get(kind, {}))]
        if changed:
            raise UserError(f"the checkpoint was trained with {', '.join(changed)}: use the same model and adapter")

    def _check(self, saved: Mapping[str, Facts], kinds: Collection[str]) -> None:
        changed = {kind: found for kind in kinds if (found := _changed(saved.get(kind, {}), self.facts.get(kind, {})))}
        waived = self.allow & changed.keys()
        texts = {text for kind in waived for text in changed.pop(kind)}
        for text in sorted(texts - self._logged):
            log.warning("Resuming, as resume.allow permits, although the checkpoint was trained with %s.", text)
        self.waived |= waived
        self._logged |= texts
        if changed:
            differences = ", ".join(text for found in changed.values() for text in found)
            raise UserError(f"the checkpoint was trained with {differences}: {_advice(changed.keys())}")


def _changed(saved: Facts, now: Facts) -> list[str]:
    """The facts that differ. Other versions of libraries may have other settings, so only common names are compared."""
    return [
        f"{name} {saved[name]} instead of {now[name]}" for name in saved if name in now and saved[name] != now[name]
    ]


def _advice(kinds: Collection[str]) -> str:
    if set(kinds) <= set(WAIVABLE):
        allow = ",".join(sorted(kinds))
        return f"restore the old values, start a new run, or set resume.allow=[{allow}] to continue with the new ones"
    return "restore the old values, or start a new run"


def packages() -> dict[str, str]:
    """The versions of the main dependencies."""
    return {name: version(name) for name in _PACKAGES}


def warn_of_versions(saved: Facts) -> None:
    """Log a warning if the checkpoint was written with other versions of the main dependencies."""
    if changed := _changed(saved, packages()):
        log.warning(
            "The checkpoint was trained with %s: the run resumes, but may round differently.", ", ".join(changed)
        )
