"""Forward passes and time of a training step for every loss, as a ratio to DPO, measured in turn.

python -m tests.benchmarks.loss_cost
"""

import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import PreferenceLossFunction, pair_logps
from tests.support.losses import CASES
from tests.support.pairs import padded_batch, random_pairs

ROUNDS = 12


def main() -> None:
    """Print a line per loss: forward passes, and the ratio of step times to DPO: median, smallest and largest."""
    torch.set_num_threads(1)
    policy, reference = (make(seed) for seed in (0, 1))
    passes = {"policy": 0, "reference": 0}
    for name, model in (("policy", policy), ("reference", reference)):
        model.model.register_forward_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    pairs = random_pairs(32, vocabulary=1000)
    both, chosen = padded_batch(pairs), padded_batch(pairs, chosen_only=True)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    counts = {}
    for _ in range(ROUNDS):
        for name, case in CASES.items():
            passes.update(policy=0, reference=0)
            started = time.thread_time()
            step(case.loss, policy, reference, both if case.loss.needs_rejected else chosen)
            times[name].append(time.thread_time() - started)
            counts[name] = (passes["policy"], passes["reference"])
    print(f"{'loss':20} policy reference  time / time of dpo (smallest, largest)")
    for name, values in times.items():
        ratios = sorted(value / dpo for value, dpo in zip(values[1:], times["dpo"][1:], strict=True))
        print(
            f"{name:20} {counts[name][0]:6} {counts[name][1]:9}  {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f}, {ratios[-1]:.3f})"
        )


def make(seed: int) -> LlamaForCausalLM:
    """A model whose step takes some tens of milliseconds."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=1000, **sizes))


def step(loss: PreferenceLossFunction, policy: LlamaForCausalLM, reference: LlamaForCausalLM, batch) -> None:
    """Log-probs, loss and gradient of one batch, as in `DPOModule.training_step`."""
    with torch.no_grad():
        of_reference = completion_logps(reference, batch, loss.needs_tokens) if loss.needs_reference else None
    logps = pair_logps(completion_logps(policy, batch, loss.needs_tokens), of_reference, batch)
    loss(logps).losses.mean().backward()


if __name__ == "__main__":
    main()
