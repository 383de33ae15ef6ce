"""Peak memory of LM head and log-softmax, forward and backward: whole logits against chunks, at 128 k tokens.

    python -m tests.benchmarks.logits_memory

Each case is a process of its own, because memory that was once held is not given back. Prints a table.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dpo.logps import lm_head

VOCABULARY, WIDTH = 131072, 256
SCORED = (512, 1024, 2048, 4096)
CHUNKS = (128, 512, 2048)


def whole(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(head(hidden).float(), targets, reduction="none")


def chunked(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    return lm_head.head_logps(head, hidden, targets, lambda logits: logits).logps


def case(scored: int, chunk: int | None) -> float:
    """Bytes that the two passes add, beyond weights and their gradient."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, device=device)
    head.weight.grad = torch.zeros_like(head.weight)
    hidden = torch.randn(scored, WIDTH, device=device, requires_grad=True)
    targets = torch.randint(VOCABULARY, (scored,), device=device)
    before = peak(device)
    lm_head.CHUNK = chunk or lm_head.CHUNK
    (chunked if chunk else whole)(head, hidden, targets).sum().backward()
    return peak(device) - before


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, type=int, metavar=("SCORED", "CHUNK"), help="one case alone; chunk 0: whole")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(args.case[0], args.case[1] or None)))
        return
    print("| scored positions | whole | " + " | ".join(f"chunks of {chunk}" for chunk in CHUNKS) + " |")
    print("|---|---|" + "---|" * len(CHUNKS))
    for scored in SCORED:
        sizes = []
        for chunk in (0, *CHUNKS):
            command = [sys.executable, "-m", "tests.benchmarks.logits_memory", "--case", str(scored), str(chunk)]
            sizes.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(f"| {scored} | " + " | ".join(f"{size / 1e9:.2f} GB" for size in sizes) + " |", flush=True)


if __name__ == "__main__":
    main()
