"""The sampled answers of runs, for reports: what each run wrote at its last validation."""

import json
from collections.abc import Sequence

from lightning_dpo.reports.runs import Run, differing, label
from lightning_dpo.run_folder import RunFolder

Answers = list[tuple[str, str]]
"""Who wrote an answer, and its text."""


def samples_of(run: Run) -> list[tuple[str, Answers]]:
    """Prompts of a run with the answers of policy and reference. Repeated prompts are listed as often."""
    return [
        (row["prompt"], [(side, row[side]) for side in ("policy", "reference") if side in row]) for row in _last(run)
    ]


def samples_beside(runs: Sequence[Run], count: int) -> list[tuple[str, Answers]]:
    """The first prompts that all finished runs have, with the answers of each run and of the first run's reference.

    Args:
        runs: The runs.
        count: Maximum number of prompts.
    """
    names = differing(runs)
    written = [(label(run, names), {row["prompt"]: row for row in _last(run)}) for run in runs if run.finished]
    written = [(name, rows) for name, rows in written if rows]
    if not written:
        return []
    first = written[0][1]
    shared = [prompt for prompt in first if all(prompt in rows for _, rows in written)][:count]
    found = []
    for prompt in shared:
        answers = [(name, rows[prompt]["policy"]) for name, rows in written]
        reference = [("reference", first[prompt]["reference"])] if "reference" in first[prompt] else []
        found.append((prompt, [*reference, *answers]))
    return found


def _last(run: Run) -> list[dict[str, str]]:
    path = RunFolder(run.folder).samples
    rows = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    return [row for row in rows if row["step"] == rows[-1]["step"]]
