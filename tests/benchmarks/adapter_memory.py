"""Peak memory of a LoRA step by the form of the frozen base model: fp32, bf16, int8 and nf4 (QLoRA).

    python -m tests.benchmarks.adapter_memory

Each case is a process of its own, because memory that was once held is not given back. The peak includes imports (all
cases import bitsandbytes, which is needed) and opening the model. Prints a table.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lightning import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_dpo import DPOModule
from lightning_dpo.models import CausalLM, LoRA
from tests.support.pairs import padded_batch, random_pairs

VOCABULARY, PAIRS = 8192, 4
CASES = {
    "LoRA, fp32": (None, "32-true"), "LoRA, bf16-mixed, base stored in bf16": (None, "bf16-mixed"),
    "QLoRA, int8, bf16-mixed": ("int8", "bf16-mixed"), "QLoRA, nf4, bf16-mixed": ("nf4", "bf16-mixed"),
    "QLoRA, nf4, fp32": ("nf4", "32-true"),
}  # fmt: skip


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def case(folder: str, name: str) -> dict[str, float]:
    quantization, precision = CASES[name]
    module = DPOModule(CausalLM(folder, quantization=quantization), adapter=LoRA(r=8))
    module.trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    module.configure_model()
    batch = padded_batch(random_pairs(PAIRS, vocabulary=VOCABULARY))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with module.trainer.precision_plugin.forward_context():
            loss = module.loss(module(batch)).losses.mean()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    weights = sum(value.numel() * value.element_size() for value in module.policy.parameters())
    return {"weights": weights, "peak": peak(), "seconds": min(seconds), "loss": loss.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, metavar=("FOLDER", "NAME"), help="only one case")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(*args.case)))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16, num_key_value_heads=4,
        )  # fmt: skip
        torch.manual_seed(0)
        LlamaForCausalLM(config).bfloat16().save_pretrained(Path(folder))
        print("| base | weights, MB | peak of the process, MB | seconds | loss |\n|---|---|---|---|---|")
        for name in CASES:
            command = [sys.executable, "-m", "tests.benchmarks.adapter_memory", "--case", folder, name]
            result = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            sizes = " | ".join(f"{result[size] / 1e6:.0f}" for size in ("weights", "peak"))
            print(f"| {name} | {sizes} | {result['seconds']:.2f} | {result['loss']:.6f} |", flush=True)


if __name__ == "__main__":
    main()
