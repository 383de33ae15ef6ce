"""Time this project's trainer on given pairs: one of the sides that `vs_trl.py` compares.

    python -m tests.benchmarks.ours --model DIR --pairs-file PAIRS.json [--batch 8 --precision fp32|bf16 --live]

Prints one JSON line like the peer's: pairs per second over the steps after the first, peak memory, every loss. A second
here is one from the end of a step to the end of the next, so batching, metrics and logging are in it; the peer's begins
when its batch is ready.
"""

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning
import torch
from lightning import Callback
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks.throughput import Throughput
from lightning_dpo.losses import DPO
from lightning_dpo.models.reference_factories import Auto

LR, CLIP = 1e-5, 1.0
OPTIMIZER = f"AdamW(lr={LR}, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, fused), constant, clipped at {CLIP}"


class InOrder(PreferenceDataModule):
    """Pairs in the order of the file, as the peer takes them."""

    def train_dataloader(self):
        return self._loader(self.train_pairs, self._sampler(self.train_pairs, self.batch_size, None), int)


class Clock(Callback):
    def __init__(self) -> None:
        self.seconds, self.cpu_seconds, self.losses, self.shares, self.tokens = [], [], [], [], 0

    def on_train_start(self, trainer, module) -> None:
        self.last, self.last_cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self.seconds.append(now - self.last)
        self.cpu_seconds.append(cpu - self.last_cpu)
        self.last, self.last_cpu = now, cpu
        self.tokens += batch.input_ids.numel()
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        if "train/measured_rate_share" in trainer.callback_metrics:
            self.shares.append(float(trainer.callback_metrics["train/measured_rate_share"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs-file", required=True, help="a JSON list of prompt, chosen and rejected")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--live", action="store_true", help="the reference is computed in every step")
    parser.add_argument("--cache", help="folder of the reference cache, to use it again; by default a new one")
    parser.add_argument("--layout", choices=["shared", "padded"], default="shared")
    return parser.parse_args()


def most_resident() -> int:
    """Bytes that this process has held at most. `getrusage` begins with what its parent held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


def main() -> None:
    args = arguments()
    pairs = json.loads(Path(args.pairs_file).read_text())
    start, clock, throughput = time.perf_counter(), Clock(), Throughput()
    with tempfile.TemporaryDirectory() as name:
        fit(args, pairs, name, clock, throughput)
    print(json.dumps(result(args, pairs, clock, throughput, time.perf_counter() - start)))


def fit(args: argparse.Namespace, pairs: list[dict], name: str, clock: Clock, throughput: Throughput) -> None:
    """One epoch over the pairs."""
    data = InOrder(
        tokenizer=args.model,
        rows=lambda split: pairs if split == "train" else pairs[:1],
        drop_seen_prompts=False,
        batch_size=args.batch,
        max_length=args.max_length,
        layout=args.layout,
    )
    module = DPOModule(
        partial(AutoModelForCausalLM.from_pretrained, args.model, dtype=torch.float32),
        DPO(beta=0.1),
        reference=Auto(cache="off") if args.live else Auto(cache_dir=args.cache or name, between="none"),
        optimizer=partial(AdamW, lr=LR, weight_decay=0.0, fused=True),
    )
    lightning.Trainer(
        max_epochs=1, precision="bf16-mixed" if args.precision == "bf16" else "32-true", gradient_clip_val=CLIP,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        devices=1, limit_val_batches=0, callbacks=[throughput, clock], default_root_dir=name,
    ).fit(module, data)  # fmt: skip


def result(args: argparse.Namespace, pairs: list[dict], clock: Clock, throughput: Throughput, seconds: float) -> dict:
    """What the peer reports, and the share of the device's rate."""
    steady = clock.seconds[1:]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else most_resident()
    return {
        "trainer": f"lightning_dpo, {args.layout}, reference {'live' if args.live else 'cached'}",
        "precision": args.precision,
        "pairs": len(pairs),
        "pairs_per_second": round(args.batch * len(steady) / sum(steady), 3),
        "pairs_per_second_all_steps": round(len(pairs) / sum(clock.seconds), 3),
        "seconds": round(seconds, 2),
        "cpu_seconds_of_steps": round(sum(clock.cpu_seconds), 2),
        "peak_bytes": int(peak),
        "tokens": clock.tokens,
        "matrix_rate": throughput.rate,
        "measured_rate_share": sum(clock.shares[1:]) / max(len(clock.shares[1:]), 1),
        "optimizer": OPTIMIZER,
        "losses": clock.losses,
    }


if __name__ == "__main__":
    main()
