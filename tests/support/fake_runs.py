"""Folders as runs leave them, without the runs."""

import csv
import json
import shlex
from pathlib import Path

from omegaconf import OmegaConf


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
    folder.mkdir(parents=True)
    (folder / "command.txt").write_text(shlex.join(["python", "-m", "lightning_dpo.train", *overrides]))
    settings = OmegaConf.create({"seed": 0, "run_folder": name})
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key.replace(".", "").isidentifier():
            OmegaConf.update(settings, key, float(value) if value[:1].isdigit() else value, force_add=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(settings))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps({"val/pairs": 400, "seconds": 90.0} | metrics))
    if error is not None:
        (folder / "error.txt").write_text(f"{error}\nGiven again, the run begins anew.\n\nTraceback ...")
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
