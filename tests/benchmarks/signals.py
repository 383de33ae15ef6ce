"""Sends signals to a run at several moments, and compares what the same command leaves afterwards.

    python -m tests.benchmarks.signals

SIGTERM, SIGINT and SIGUSR1, to one process, to one of two ranks, and to both: during preparation, a step, a validation
and the export. No run may hang. The table contains the seconds from the signal to the end of the last rank, and whether
the same command (`ckpt_path=last_if_any`) leaves what a run leaves that was not disturbed.
"""

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.support.kills import SETUPS, Setup, Signal, differences, results, run

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
MOMENTS = {
    "preparation": ("module", "DPOModule.configure_model", 1),
    "step": ("module", "DPOModule.training_step", 6),
    "validation": ("module", "DPOModule.validation_step", 2),
    # `export_run` is called only on the first rank.
    "export": ("runs.results", "final_metrics", 1),
}
TARGETS = {
    "one process": ("accumulation 4", (0,)),
    "the first of two ranks": ("2 ranks, accumulation 2, LoRA with dropout", (0,)),
    "the second of two ranks": ("2 ranks, accumulation 2, LoRA with dropout", (1,)),
    "both ranks": ("2 ranks, accumulation 2, LoRA with dropout", (0, 1)),
}


def stopped(folder: Path, setup: Setup, sent: Signal, expected: dict[str, Any]) -> tuple[str, float, list[str]]:
    """Exit statuses, seconds until all ranks have ended, and what differs after the same command."""
    statuses = run(folder, setup, signal_at=sent)
    seconds = time.time() - min((folder / f"signal{rank}").stat().st_mtime for rank in sent.ranks)
    again = run(folder, setup)
    different = [f"exit status {status}" for status in again if status] or differences(results(folder), expected)
    return " ".join(map(str, statuses)), seconds, different


def main() -> None:
    """Run all combinations and print a table."""
    root = Path(tempfile.mkdtemp(prefix="signals-"))
    expected = {}
    for number, name in enumerate(dict.fromkeys(name for name, _ in TARGETS.values())):
        assert not any(run(root / str(number), SETUPS[name])), (root / str(number) / "output0.txt").read_text()
        expected[name] = results(root / str(number))
    cases = [(number, target, moment) for number in NUMBERS for target in TARGETS for moment in MOMENTS]
    table = Table("signal", "to", "during", "exit status", "seconds", "same as undisturbed")
    for index, (number, target, moment) in enumerate(track(cases, description="Signals")):
        name, ranks = TARGETS[target]
        sent = Signal(number, ranks, *MOMENTS[moment])
        try:
            statuses, seconds, different = stopped(root / f"case-{index}", SETUPS[name], sent, expected[name])
        except AssertionError as error:
            statuses, seconds, different = "hangs", float("nan"), [str(error)[:200]]
        result = "yes" if not different else ", ".join(different)
        table.add_row(number.name, target, moment, statuses, f"{seconds:.1f}", result)
    Console().print(table)
    if list(table.columns[-1].cells) != ["yes"] * len(cases):
        sys.exit(1)


if __name__ == "__main__":
    main()
