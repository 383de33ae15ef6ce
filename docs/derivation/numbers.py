"""The numbers of docs/derivation.md, from finished runs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from docs.derivation.runs import ReviewsRun
from lightning_dpo.reviews import world

SAMPLES = 1000


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown. Numbers have three decimals, large ones none."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([_text(cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.3f}" if abs(cell) < 1000 else f"{cell:,.0f}"


def log_z(run: ReviewsRun) -> Tensor:
    """log Z(x) = log Σ_y π_ref(y|x) exp(r(x, y)/β). Shape: (films,)."""
    return (run.reference + world.rewards() / run.beta).logsumexp(-1)


def four_forms(run: ReviewsRun) -> str:
    """The objective in the forms of the four steps, for four policies. All are equal, for every policy."""
    best = torch.full_like(run.reference, -50.0).scatter(-1, world.rewards().argmax(-1, keepdim=True), 0.0)
    policies = {
        "the reference": run.reference,
        "the trained policy": run.policy,
        "π*": run.known.optimum,
        "only the best review": best.log_softmax(-1),
    }
    return table(
        ["policy", "E[r]", "KL(π‖π_ref)", "E[r] − β KL(π‖π_ref)", "after step 1", "after step 2", "after step 4"],
        [[name, *forms(run, policy)] for name, policy in policies.items()],
    )


def forms(run: ReviewsRun, policy: Tensor) -> list[float]:
    """E[r], the KL divergence, the objective, and the objective after steps 1, 2 and 4, means over films."""
    beta, rewards, reference, z = run.beta, world.rewards(), run.reference, log_z(run)[:, None]

    def mean(values: Tensor) -> float:
        return float((policy.exp() * values).sum(-1).mean())

    kl = mean(policy - reference)
    first = -beta * mean(policy - reference - rewards / beta)
    second = -beta * mean(policy - (reference + rewards / beta - z) - z)
    last = -beta * mean(policy - run.known.optimum) + beta * float(z.mean())
    return [mean(rewards), kl, mean(rewards) - beta * kl, first, second, last]


def partition(run: ReviewsRun) -> str:
    """Z of every film, and how well samples of the reference estimate it."""
    weights = (world.rewards() / run.beta).exp()
    z, reference = log_z(run), run.reference.exp()
    variance = (reference * weights.square()).sum(-1) - z.exp().square()
    error = (variance / SAMPLES).sqrt() / z.exp()
    rows = [
        [film, float(z[i].exp()), run.beta * float(z[i]), f"± {100 * float(error[i]):.1f} %"]
        for i, film in enumerate(world.FILMS)
    ]
    return table(["film", "Z", "β log Z", f"error of an estimate from {SAMPLES} samples"], rows)


def level(run: ReviewsRun) -> str:
    """r − r̂ of the trained policy over the reviews of each film: its mean and spread under π*, and β log Z."""
    difference, weights = world.rewards() - run.rewards, run.known.optimum.exp()
    mean = (weights * difference).sum(-1)
    spread = (weights * (difference - mean[:, None]).square()).sum(-1).sqrt()
    reward = world.rewards()
    of_reward = (weights * (reward - (weights * reward).sum(-1, keepdim=True)).square()).sum(-1).sqrt()
    z = run.beta * log_z(run)
    rows = [
        [film, float(of_reward[i]), float(mean[i]), float(spread[i]), float(z[i])] for i, film in enumerate(world.FILMS)
    ]
    return table(["film", "spread of r", "mean of r − r̂", "spread of r − r̂", "β log Z"], rows)


def gradient_weights(run: ReviewsRun) -> str:
    """σ(r̂_l − r̂_w) over the training pairs, before and after."""
    weights = torch.sigmoid(-run.margins)
    right = run.margins > 0
    rows: list[list[object]] = [["before training, all pairs", len(weights), 0.5, 0.5, 0.5]]
    for name, chosen in (("all pairs", torch.ones_like(right)), ("ranked as labelled", right), ("others", ~right)):
        some = weights[chosen]
        low, high = torch.quantile(some, torch.tensor([0.05, 0.95], dtype=some.dtype)).tolist()
        rows.append([f"after training, {name}", int(chosen.sum()), float(some.mean()), low, high])
    return table(["", "pairs", "mean", "5 %", "95 %"], rows)


def sweep(runs: Sequence[ReviewsRun]) -> str:
    """Reward and KL of each run, and the largest reward at that KL."""
    rows = []
    for run in runs:
        found = run.known.report(run.policy)
        gain, possible = (found[name] - found["reference_reward"] for name in ("reward", "frontier_reward"))
        rows.append(
            [
                run.beta,
                found["reward"],
                found["kl_reference"],
                found["frontier_reward"],
                gain / possible,
                found["kl_optimum"],
            ]
        )
    columns = ["β", "E[r]", "KL(π‖π_ref)", "largest E[r] at this KL", "fraction of the possible gain", "KL(π‖π*)"]
    return table([columns[0], *columns[1:]], [[f"{row[0]:g}", *row[1:]] for row in rows])


def two_way(run: ReviewsRun, dpo: ReviewsRun) -> str:
    """What the two-way softmax and DPO converge to, and where their runs ended."""
    uniform = (world.rewards() / run.beta).log_softmax(-1)
    rows: list[list[object]] = []
    for name, policy in (
        ("DPO: π*", dpo.known.optimum),
        ("DPO, trained", dpo.policy),
        ("two-way softmax: optimum", uniform),
        ("two-way softmax, trained", run.policy),
    ):
        found = dpo.known.report(policy)
        gain, possible = (found[key] - found["reference_reward"] for key in ("reward", "frontier_reward"))
        rows.append([name, found["reward"], found["kl_reference"], gain / possible])
    return table(["", "E[r]", "KL(π‖π_ref)", "fraction of the possible gain"], rows)


def denominators(run: ReviewsRun, dpo: ReviewsRun) -> dict[str, str]:
    """The denominators of one pair: of the two-way softmax, two terms; Z, all reviews."""
    film, reviews = 1, (0, 1)
    pair = run.beta * run.policy[film, list(reviews)]
    texts = [world.reviews()[review].strip() for review in reviews]
    return {
        "film": world.FILMS[film],
        "first": texts[0],
        "second": texts[1],
        "two_terms": f"{float(pair.exp().sum()):.3f}",
        "all_terms": f"{float(log_z(dpo)[film].exp()):.3f}",
        "reviews": str(len(world.reviews())),
        "digits": f"{200 * math.log10(128_000):.0f}",
    }
