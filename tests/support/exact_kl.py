"""The KL between two models over whole answers, by enumerating them."""

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def exact_kl(
    policy: PreTrainedModel, reference: PreTrainedModel, prompt: list[int], length: int, end: int, least: float = 1e-6
) -> float:
    """KL in nats over answers of at most `length` tokens; beginnings less likely than `least` are left out."""
    total = 0.0
    prefixes, probabilities = torch.tensor([prompt]), torch.ones(1, dtype=torch.float64)
    for _ in range(length):
        ours, theirs = (
            torch.cat([model(part).logits[:, -1].double().log_softmax(-1) for part in prefixes.split(4096)])
            for model in (policy, reference)
        )
        total += float((probabilities * (ours.exp() * (ours - theirs)).sum(-1)).sum())
        joint = probabilities[:, None] * ours.exp()
        joint[:, end] = 0
        rows, tokens = (joint > least).nonzero(as_tuple=True)
        prefixes = torch.cat([prefixes[rows], tokens[:, None]], dim=1)
        probabilities = joint[rows, tokens]
        if not len(rows):
            break
    return total
