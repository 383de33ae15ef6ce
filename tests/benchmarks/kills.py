"""Kills a run at every write, at random moments, and compares what the same command leaves afterwards.

    python -m tests.benchmarks.kills [--random 20] [--only "2 ranks"] [--processes 2]

Every kill is followed by the same command (`ckpt_path=last_if_any`). The export, bit for bit, and metrics.csv,
samples.jsonl and metrics.json must be those of a run that was not disturbed. The last table is in README.md.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.support.kills import SETUPS, Setup, Write, differences, results, run, writes


def killed_at_write(folder: Path, setup: Setup, write: Write, expected: dict[str, Any]) -> list[str]:
    """What differs after a kill at the second write of a kind, or at the first if there is only one."""
    for number in (2, 1):
        statuses = run(folder, setup, (write, number))
        if -signal.SIGKILL in statuses:
            break
        shutil.rmtree(folder)  # the run has finished
    return resumed(folder, setup, expected)


def killed_at_random(folder: Path, setup: Setup, seconds: float, expected: dict[str, Any]) -> list[str]:
    """What differs after a kill of all ranks at a moment."""
    run(folder, setup, kill_after=seconds)
    return resumed(folder, setup, expected)


def resumed(folder: Path, setup: Setup, expected: dict[str, Any]) -> list[str]:
    """Repeat the command, and compare."""
    statuses = run(folder, setup)
    found = [f"exit status {status}" for status in statuses if status] or differences(results(folder), expected)
    if not found:
        shutil.rmtree(folder)
    return found


def main() -> None:
    """Run all kills and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=20, help="number of kills at random moments (default: 20)")
    parser.add_argument("--only", choices=SETUPS, help="only this configuration")
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time (default: 2)")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    setups = {name: setup for name, setup in SETUPS.items() if arguments.only in (None, name)}
    jobs: list[tuple[str, str, Any, tuple[Any, ...]]] = []
    for number, (name, setup) in enumerate(track(setups.items(), description="Undisturbed runs")):
        folder = root / f"{number}"
        assert not any(run(folder, setup)), (folder / "output0.txt").read_text()
        expected = results(folder)
        for index, write in enumerate(writes(folder)):
            jobs.append((name, str(write), killed_at_write, (root / f"{number}-{index}", setup, write, expected)))
    generator = random.Random(0)
    for index in range(arguments.random):
        name = generator.choice(list(setups))
        number, seconds = list(setups).index(name), generator.uniform(0.3, 4.0)
        place = root / f"random-{index}"
        expected = results(root / f"{number}")
        jobs.append((name, f"at {seconds:.1f} s", killed_at_random, (place, setups[name], seconds, expected)))
    held, tried = Counter[str](), Counter[str]()
    with ThreadPoolExecutor(arguments.processes) as threads:
        found = threads.map(lambda job: job[2](*job[3]), jobs)
        for (name, moment, kill, _), different in zip(jobs, track(found, "Kills", len(jobs)), strict=True):
            key = f"{name}, random" if kill is killed_at_random else name
            tried[key] += 1
            held[key] += not different
            if different:
                Console().print(f"{name}, {moment}: {', '.join(different)}")
    table = Table("configuration", "kills", "same as undisturbed")
    for key in tried:
        table.add_row(key, str(tried[key]), str(held[key]))
    table.add_row("all", str(tried.total()), str(held.total()))
    Console().print(table)
    if held != tried:
        sys.exit(f"The folders of the runs that differ are in {root}.")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
