"""The sampled answers of runs, for reports: what each run wrote at its last validation."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from lightning_dpo.reports.runs import Run, differing, label
from lightning_dpo.run_folder import RunFolder

Answers = list[tuple[str, str]]
"""Who wrote an answer, and its text."""

_SIDES = ("chosen", "rejected", "policy", "reference")
_LEAST = 0.01  # nats: smaller log-ratios are not shown in full color


class Piece(NamedTuple):
    """A part of an answer."""

    text: str
    log_ratio: float | None = None
    """log π − log π_ref, in nats; None if unknown."""


class Sample(NamedTuple):
    """Answers to a prompt, in parts."""

    prompt: str
    answers: list[tuple[str, list[Piece]]]


def samples_of(run: Run) -> list[Sample]:
    """The prompts of a run with the answers in the data, of the policy, and of the reference."""
    path, found = RunFolder(run.folder).log_ratios, []
    compared = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    for index, row in enumerate(_last(run)):
        parts = compared[index] if index < len(compared) and compared[index]["prompt"] == row["prompt"] else {}
        answers = [(side, [Piece(*part) for part in parts.get(side, [[row[side]]])]) for side in _SIDES if side in row]
        found.append(Sample(row["prompt"], answers))
    return found


def full_color(samples: Sequence[Sample]) -> float | None:
    """The size of a log-ratio that is shown in full color: 95 % are smaller. None if all are unknown."""
    ratios = sorted(
        abs(piece.log_ratio)
        for sample in samples
        for _, pieces in sample.answers
        for piece in pieces
        if piece.log_ratio is not None
    )
    return max(ratios[int(0.95 * len(ratios))], _LEAST) if ratios else None


def samples_beside(runs: Sequence[Run], count: int) -> list[tuple[str, Answers]]:
    """The first prompts that all finished runs have, with the answers of each run and of its reference.

    Args:
        runs: The runs.
        count: Maximum number of prompts.
    """
    names = differing(runs)
    written = [(label(run, names), {row["prompt"]: row for row in _last(run)}) for run in runs if run.finished]
    written = [(name, rows) for name, rows in written if rows]
    if not written:
        return []
    shared = [prompt for prompt in written[0][1] if all(prompt in rows for _, rows in written)][:count]
    return [(prompt, _beside([(name, rows[prompt]) for name, rows in written])) for prompt in shared]


def _beside(written: Sequence[tuple[str, dict[str, str]]]) -> Answers:
    """The answers of runs to a prompt, after that of the reference. Runs may have different references."""
    references = {row.get("reference") for _, row in written} - {None}
    one_for_all = [("reference", text) for text in references if text and len(references) == 1]
    found: Answers = [*one_for_all]
    for name, row in written:
        if "reference" in row and not one_for_all:
            found.append((f"reference of {name}", row["reference"]))
        found.append((name, row["policy"]))
    return found


def _last(run: Run) -> list[dict[str, str]]:
    path = RunFolder(run.folder).samples
    rows = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    return [row for row in rows if row["step"] == rows[-1]["step"]]
