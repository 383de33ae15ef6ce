"""The report of `evaluate`: a table, a plot, and a row per pair."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_dpo.evaluation.accuracy import ScoredPair, accuracy, by_length_difference, by_source, length_baseline
from lightning_dpo.evaluation.calibration import calibration, draw_calibration
from lightning_dpo.reports.intervals import Z
from lightning_dpo.run_folder import RunFolder, write_atomically, write_table

log = logging.getLogger(__name__)


def report(metrics: dict[str, float], pairs: Sequence[ScoredPair], folder: RunFolder) -> None:
    """Print the table; write `metrics.json`, `pairs.csv` and `calibration.png`."""
    everything, sources, lengths = accuracy(pairs), by_source(pairs), by_length_difference(pairs)
    parts = {"all pairs": everything}
    parts |= {f"source {name}": value for name, value in sources.items()} if len(sources) > 1 else {}
    parts |= {f"chosen {name}": value for name, value in lengths.items()}
    calibrated, longer = calibration(pairs), length_baseline(pairs)
    table = Table("", "accuracy", "95 % interval", "ties", "pairs", title="Rewards", title_justify="left")
    for name, part in parts.items():
        table.add_row(
            Text(name), f"{part.value:.3f}", f"{part.low:.3f} - {part.high:.3f}", str(part.ties), str(part.pairs)
        )
    table.add_section()
    table.add_row("baseline: prefer the longer answer", f"{longer:.3f}", "", "", str(len(pairs)))
    table.add_row("calibration error of σ(margin)", f"{calibrated.expected_error:.3f}")
    table.add_row("Brier score (0.25 for margins of 0)", f"{calibrated.brier:.3f}")
    if "val/kl" in metrics:
        kl, interval = metrics["val/kl"], Z * metrics["val/kl_stderr"]
        table.add_row("KL(policy || reference), nats", f"{kl:.3f}", f"{kl - interval:.3f} - {kl + interval:.3f}")
    Console().print(table)
    subtitle = f"calibration error {calibrated.expected_error:.3f}, log loss {calibrated.log_loss:.3f} nats"
    draw_calibration(calibrated.bins, subtitle, folder.calibration)
    write_table(folder.scored_pairs, [list(asdict(pairs[0])), *(list(asdict(pair).values()) for pair in pairs)])
    found = {
        "accuracy": asdict(everything),
        "accuracy_by_source": {name: asdict(part) for name, part in sources.items()},
        "accuracy_by_length_difference": {name: asdict(part) for name, part in lengths.items()},
        "length_baseline": longer,
        "calibration": asdict(calibrated),
    }
    write_atomically(folder.metrics, json.dumps(metrics | found, indent=2) + "\n")
    log.info("Wrote metrics.json, pairs.csv and calibration.png to %s.", folder.path)
