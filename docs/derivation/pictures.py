"""The pictures of docs/derivation.md."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from docs.derivation.numbers import log_z
from docs.derivation.runs import ReviewsRun
from lightning_dpo.reports.plots import grid, save_figure
from lightning_dpo.reviews import world


def draw_level(run: ReviewsRun, path: Path) -> None:
    """Draw the true reward against the implicit one: per film, a line of slope 1 at the height β log Z."""
    figure, panels = grid(len(world.FILMS), 4, (3.0, 3.2))
    size = 4 + 250 * run.known.optimum.exp()
    for index, (film, axes) in enumerate(zip(world.FILMS, panels, strict=True)):
        found, height = run.rewards[index], run.beta * float(log_z(run)[index])
        ends = torch.stack([found.min(), found.max()])
        axes.plot(ends, ends + height, color="0.5", linewidth=1, label="r = r̂ + β log Z")
        axes.scatter(
            found, world.rewards()[index], s=size[index], color="black", alpha=0.5, linewidths=0, label="a review"
        )
        axes.set(title=f"{film}: β log Z = {height:.2f}", xlabel="r̂ = β log π/π_ref")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("true reward r")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path, 150)


def draw_gradient_weights(run: ReviewsRun, path: Path) -> None:
    """Draw the weights of the training pairs after training, by whether the pair is ranked as labelled."""
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    weights, right = torch.sigmoid(-run.margins), run.margins > 0
    axes.hist(
        [weights[right].numpy(), weights[~right].numpy()], bins=40, range=(0, 1), stacked=True,
        color=["0.75", "0.25"], label=["ranked as labelled", "ranked against the label"],
    )  # fmt: skip
    axes.axvline(0.5, color="black", linestyle="--", linewidth=1, label="before training: all at ½")
    axes.set(xlabel="weight of a pair's gradient, σ(r̂_l − r̂_w)", ylabel="training pairs")
    axes.legend(fontsize="small")
    save_figure(figure, path, 150)


def draw_frontier(runs: Sequence[ReviewsRun], two_way: ReviewsRun, path: Path) -> None:
    """Draw reward against KL: the largest possible reward, DPO for several β, and the two-way softmax."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    reports = [run.known.report(run.policy) for run in (*runs, two_way)]
    furthest = 1.15 * max(report["kl_reference"] for report in reports)
    limit = [(kl, reward) for _, kl, reward in runs[0].known.frontier() if kl <= furthest]
    axes.plot(*zip(*limit, strict=True), color="0.5", label="largest possible reward")
    axes.plot(0, reports[0]["reference_reward"], "o", markerfacecolor="white", color="0.5", label="reference")
    for run, report in zip(runs, reports, strict=False):
        axes.plot(report["kl_reference"], report["reward"], "ks", label="DPO" if run is runs[0] else None)
        axes.annotate(
            f"β = {run.beta:g}", (report["kl_reference"], report["reward"]), (6, -12), textcoords="offset points"
        )
    axes.plot(reports[-1]["kl_reference"], reports[-1]["reward"], "k^", label=f"two-way softmax, β = {two_way.beta:g}")
    axes.set(xlabel="KL(π‖π_ref), nats", ylabel="expected reward")
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path, 150)
