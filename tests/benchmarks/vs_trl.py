"""This project and TRL side by side: same pairs, order, precision, batch size, optimizer and clipping, in turn.

    python -m tests.benchmarks.vs_trl [--peer ../shared/peer] [--data ../shared/data/hh-harmless-1800.jsonl.gz]
                                      [--repeats 3] [--only best|main|growth] [--pairs 64] [--out FOLDER]

Every run is a process of its own; the sides alternate, A B A B A B, so that what else the machine does meets both. It
prints the table that stands in README.md here, and leaves in FOLDER every run's line and a picture of the growth. Runs
on CUDA where there is a device, else on the CPU.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.growth import Case, cases, draw, write

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIVE, CACHED = ("--live",), ()
# On a CPU, TRL puts every position through the LM head; on CUDA, only those of completions. Its users sort by length.
CUDA_HEAD = ("--head", "cuda")
BEST = ("--precompute", *CUDA_HEAD, "--order", "length")
# Sorted by length, the first step is the longest: all steps count.
RATE = "pairs_per_second_all_steps"


def run(command: list[str]) -> dict:
    """The JSON line that a process prints last."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return found | {"process_seconds": time.perf_counter() - start, "process_cpu_seconds": cpu}


class Comparison:
    """Runs of one model on one file of pairs."""

    def __init__(self, args: argparse.Namespace, folder: Path, case: Case) -> None:
        self.peer, self.folder, self.case = Path(args.peer), folder, case
        self.pairs_file = folder / "pairs.json"
        self.pairs_file.write_text(json.dumps(self._pairs()))

    def _pairs(self) -> list[dict]:
        """By the peer's own function: its pairs, in its order."""
        from transformers import AutoTokenizer

        spec = importlib.util.spec_from_file_location("peer", self.peer / "trl_bench.py")
        peer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(peer)
        tokenizer = AutoTokenizer.from_pretrained(self.case.model)
        return peer.load_pairs(str(self.case.data), tokenizer, self.case.pairs, self.case.max_length)

    def trl(self, precision: str, *options: str) -> dict:
        shared = ["--model", self.case.model, "--precision", precision, "--batch", self.case.batch]
        return run([
            str(self.peer / "trl_bench.py"), *map(str, shared), "--data", str(self.case.data),
            "--pairs", str(self.case.pairs), "--max-length", str(self.case.max_length),
            "--output", str(self.folder / "trl"), *options,
        ])  # fmt: skip

    def ours(self, precision: str, *options: str) -> dict:
        shared = ["--model", self.case.model, "--precision", precision, "--batch", self.case.batch]
        return run([
            "-m", "tests.benchmarks.ours", *map(str, shared), "--pairs-file", str(self.pairs_file),
            "--max-length", str(self.case.max_length), *options,
        ])  # fmt: skip

    def in_turn(self, repeats: int, *sides: Callable[[], dict]) -> list[list[dict]]:
        """Runs of every side, A B A B A B."""
        found: list[list[dict]] = [[] for _ in sides]
        for _ in range(repeats):
            for runs, side in zip(found, sides, strict=True):
                runs.append(side())
            print(".", end="", file=sys.stderr, flush=True)
        return found


def median(runs: list[dict], name: str) -> float:
    return statistics.median(one[name] for one in runs)


def main_table(args: argparse.Namespace, record: list) -> None:
    """HH pairs on the 33.6 M model, both precisions. TRL's best settings come first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = [str(Path(args.peer) / "make_model.py"), str(folder / "model"), "--data", args.data]
        subprocess.run([sys.executable, *make], check=True, capture_output=True)
        case = Case("HH", "", 0, folder / "model", Path(args.data), pairs=args.pairs, batch=8, max_length=512)
        comparison = Comparison(args, folder, case)
        print(
            f"| {args.pairs} pairs | pairs/s | ratio | peak memory | ratio | whole process | ratio | CPU time | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for precision in args.precision:
            theirs = {"TRL, best": BEST, "TRL, CUDA path": CUDA_HEAD, "TRL, CPU path": ()}
            theirs = dict(list(theirs.items())[: 1 if args.only == "best" else None])
            own = {"cached reference": CACHED, "live reference": LIVE}
            sides = [partial(comparison.ours, precision, *options) for options in own.values()]
            sides += [partial(comparison.trl, precision, *options) for options in theirs.values()]
            runs = dict(zip((*own, *theirs), comparison.in_turn(args.repeats, *sides), strict=True))
            record += [one | {"case": f"HH {args.pairs}"} for found in runs.values() for one in found]
            for title, found in runs.items():
                print(f"| {precision}, {title} | {' | '.join(relative(found, runs['cached reference']))} |", flush=True)
            for title, found in runs.items():
                losses = " ".join(f"{loss:.6f}" for loss in found[0]["losses"][:8])
                print(f"<!-- {precision} {title}: {losses} -->")


def relative(runs: list[dict], ours: list[dict]) -> Iterator[str]:
    """Medians of a side's runs, each followed by how much better this project's median is."""
    formats = {
        RATE: "{:.2f}",
        "peak_bytes": "{:.2f} GB",
        "process_seconds": "{:.1f} s",
        "process_cpu_seconds": "{:.1f} s",
    }
    for name, text in formats.items():
        value, own = median(runs, name), median(ours, name)
        yield text.format(value / 1e9 if name == "peak_bytes" else value)
        yield f"{own / value if name == RATE else value / own:.2f}"


def growth_table(args: argparse.Namespace, record: list) -> None:
    """How the ratio grows with what a batch looks like: a small model, fp32, both references live, one run of each."""
    found = []
    print("\n| what grows | | TRL, pairs/s | ours, pairs/s | x TRL | peak memory of TRL's |\n|---|---|---|---|---|---|")
    for make in cases():
        with tempfile.TemporaryDirectory() as name:
            case = write(make, Path(name))
            comparison = Comparison(args, Path(name), case)
            trl, ours = comparison.in_turn(1, partial(comparison.trl, "fp32"), partial(comparison.ours, "fp32", *LIVE))
        theirs, own = (median(runs, "pairs_per_second") for runs in (trl, ours))
        memory = median(ours, "peak_bytes") / median(trl, "peak_bytes")
        found.append((case.what, case.value, own / theirs, memory))
        record += [one | {"case": f"{case.what} {case.value}"} for one in (*trl, *ours)]
        numbers = (theirs, own, own / theirs, memory)
        print(f"| {case.what} | {case.value} | " + " | ".join(f"{one:.2f}" for one in numbers) + " |", flush=True)
    draw(found, Path(args.out) / "growth.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=str(ROOT.parent / "shared" / "peer"), help="folder of trl_bench.py")
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "hh-harmless-1800.jsonl.gz"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["best", "main", "growth"])
    parser.add_argument("--pairs", type=int, default=64, help="pairs of HH; with 1000, use --only best")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--out", default=".", help="folder for runs-*.jsonl and growth.png")
    args = parser.parse_args()
    for needed in (Path(args.peer) / "trl_bench.py", Path(args.data)):
        if not needed.exists():
            parser.error(f"{needed} is not there: give --peer and --data")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {device}")
    record: list[dict] = []
    try:
        if args.only != "growth":
            main_table(args, record)
        if args.only in (None, "growth"):
            growth_table(args, record)
    finally:
        lines = "".join(json.dumps(one) + "\n" for one in record)
        (Path(args.out) / f"runs-{args.only or 'all'}.jsonl").write_text(lines)


if __name__ == "__main__":
    main()
