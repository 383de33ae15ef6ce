"""What a finished run leaves in its folder: the trained model, the final metrics, and the curves."""

import csv
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

from lightning import Trainer
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel

from lightning_dpo.adapter import base_name, merged
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.module import DPOModule
from lightning_dpo.policy import export

log = logging.getLogger(__name__)

_PANELS = {
    "loss": ("train/loss", "val/loss"),
    "accuracy (a tie counts ½)": ("train/rewards/accuracies", "val/rewards/accuracies"),
    "validation rewards": ("val/rewards/chosen", "val/rewards/rejected", "val/rewards/margins"),
    "log π − log π_ref on training pairs, nats": ("train/logratios/chosen", "train/logratios/rejected"),
}
_LINES = ("-", "--", ":")


def write(config: DictConfig, trainer: Trainer, module: DPOModule, data: PreferenceDataModule, seconds: float) -> float:
    """Export the model, save the loggers, draw `curves.png`, write `metrics.json`.

    Args:
        config: The run's.
        trainer: After `fit`.
        module: The trained module.
        data: What it was trained on.
        seconds: Wall-clock time of the run.

    Returns:
        The metric that `sweep_objective` names; NaN, said in the log, where there is none.
    """
    metrics = final_metrics(trainer, module, data)
    if trainer.is_global_zero:
        folder = Path(config.run_folder)
        export_all(module, data, folder, model_card(config, metrics, data.counts))
        for logger in trainer.loggers:
            logger.save()
        if (folder / "metrics.csv").exists():
            draw_curves(folder / "metrics.csv", folder / "curves.png")
        run = {"steps": trainer.global_step, "epochs": trainer.current_epoch, "seconds": round(seconds, 1)}
        # Written last: a folder with a metrics.json is a finished run.
        Path(folder, "metrics.json").write_text(json.dumps(metrics | run | {"data": data.counts}, indent=2) + "\n")
        log.info("Results in %s: export/, checkpoints/, metrics.json, curves.png.", folder)
    if config.sweep_objective not in metrics:
        log.warning("sweep_objective=%s: the run has %s.", config.sweep_objective, ", ".join(sorted(metrics)))
    return metrics.get(config.sweep_objective, float("nan"))


def export_all(module: DPOModule, data: PreferenceDataModule, folder: Path, card: str) -> None:
    """Write `export/` and, of an adapter that is to be merged, `export_merged/`. The policy is no use afterwards."""
    policy = module.policy
    if isinstance(policy, PeftModel):
        if base_name(policy):
            export(policy, data.tokenizer, folder / "export", card)
            if module.make_adapter and module.make_adapter.merge:
                export(merged(policy), data.tokenizer, folder / "export_merged", card)
            return
        log.info("The model under the adapter was made in code, so the adapter is exported merged into it.")
        policy = merged(policy)
    export(policy, data.tokenizer, folder / "export", card)


def final_metrics(trainer: Trainer, module: DPOModule, data: PreferenceDataModule) -> dict[str, float]:
    """The metrics of the weights that are exported: where training stopped between two validations, one more."""
    metrics = dict(trainer.callback_metrics)
    if module.validated_step != trainer.global_step:
        trainer.validate(module, data, verbose=False)
        metrics |= trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}


def model_card(config: DictConfig, metrics: dict[str, float], counts: dict[str, int]) -> str:
    """The README.md of an export: what it was trained from, on what, how, and how it ended."""
    base = "random weights"
    if OmegaConf.select(config, "model.pretrained", default=True):
        base = OmegaConf.select(config, "model.name") or "a model that was made in code"
    packages = ", ".join(f"{name} {version(name)}" for name in ("lightning-dpo", "torch", "transformers", "lightning"))
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items()) if name.startswith("val/"))
    pairs = "\n".join(f"- {name.replace('_', ' ')}: {count}" for name, count in counts.items())
    settings = {
        key: OmegaConf.to_container(config[key], resolve=True) for key in ("loss", "optimizer", "scheduler", "data")
    }
    return f"""---
library_name: transformers
tags: [lightning-dpo]
---
# {config.run_name}

Trained from {base} on preference pairs with lightning_dpo; the weights are those of the last step.

Pairs:

{pairs}

| metric | value |
|---|---|
{rows}

```yaml
{OmegaConf.to_yaml(OmegaConf.create(settings))}```

{packages}. Command: `python -m lightning_dpo.train {" ".join(sys.argv[1:])}`
"""


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the curves of `metrics.csv`: loss, accuracy, rewards and log-ratios by optimizer step."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        for names in _PANELS.values()
        for name in names
    }
    panels = {title: names for title, names in _PANELS.items() if any(curves[name] for name in names)}
    figure = Figure(figsize=(4.5 * len(panels), 4.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, line in zip(names, _LINES, strict=False):
            if curves[name]:
                marker = "o" if name.startswith("val/") else None
                # Single steps are noisy; what was validated stands in front of them.
                width, front = (1.5, 3) if marker else (0.6, 2)
                points = zip(*curves[name], strict=True)
                axes.plot(*points, line, label=name, marker=marker, markersize=4, linewidth=width, zorder=front)
        axes.set(title=title, xlabel="optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.savefig(picture, dpi=150)
