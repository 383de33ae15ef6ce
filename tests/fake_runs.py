"""Folders as runs leave them, without the runs."""

import csv
import json
from pathlib import Path


def fake_run(
    sweep: Path,
    name: str,
    overrides: list[str],
    metrics: dict | None = None,
    history: list[dict] | None = None,
    error: str | None = None,
    frontier: list[tuple[float, float, float]] | None = None,
) -> Path:
    """A run that is finished where it has metrics, failed where it has an error, and otherwise interrupted."""
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    (folder / "config.yaml").touch()
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps({"data": {"val": 400}, "seconds": 90.0} | metrics))
    if error is not None:
        (folder / "error.txt").write_text(f"{error}\n\nTraceback ...")
    for file, columns, rows in (
        ("metrics.csv", sorted({key for row in history or () for key in row}), history),
        ("frontier.csv", ["beta", "kl", "reward"], [dict(zip(("beta", "kl", "reward"), r)) for r in frontier or ()]),  # noqa: B905
    ):
        if rows:
            with (folder / file).open("w", newline="") as out:
                writer = csv.DictWriter(out, columns)
                writer.writeheader()
                writer.writerows(rows)
    return folder
