"""Labels of metrics for tables and plots, their panels in `curves.png`, and their better direction."""

from typing import NamedTuple


class Label(NamedTuple):
    """Label of a metric."""

    text: str
    """Name in tables and on axes, with the unit."""
    panel: str = ""
    """Title of its panel in `curves.png`; empty: it has none."""
    better: str = ""
    """↑ if a larger value is better, ↓ if a smaller one is; empty: neither."""

    @property
    def heading(self) -> str:
        """Heading of a table column."""
        return f"{self.text} {self.better}".rstrip()


FRONTIER_SHARE = "closed_form/frontier_share"

_LOSS, _ACCURACY, _REWARDS = "loss", "accuracy (a tie counts ½)", "validation rewards"
_LOGRATIOS = "log π − log π_ref on training pairs, nats"
_KL = "KL(π‖π_ref) on sampled answers, nats, ± 1.96 standard errors"
_GRADIENT = "weight of the DPO gradient, mean σ(r̂_l − r̂_w)"
_LENGTH = "tokens of sampled answers"

LABELS = {
    "train/loss": Label("training loss", _LOSS, "↓"),
    "val/loss": Label("validation loss", _LOSS, "↓"),
    "train/rewards/accuracies": Label("training accuracy", _ACCURACY, "↑"),
    "val/rewards/accuracies": Label("accuracy", _ACCURACY, "↑"),
    "val/rewards/chosen": Label("reward of chosen answers", _REWARDS),
    "val/rewards/rejected": Label("reward of rejected answers", _REWARDS),
    "val/rewards/margins": Label("reward margin", _REWARDS, "↑"),
    "train/gradient_weight": Label("gradient weight on training pairs", _GRADIENT),
    "val/gradient_weight": Label("gradient weight on validation pairs", _GRADIENT),
    "train/logratios/chosen": Label("log-ratio of chosen answers, nats", _LOGRATIOS),
    "train/logratios/rejected": Label("log-ratio of rejected answers, nats", _LOGRATIOS),
    "val/kl": Label("KL(π‖π_ref) on samples, nats", _KL),
    "val/samples/length": Label("tokens of samples", _LENGTH),
    "val/samples/reference/length": Label("tokens of the reference's samples", _LENGTH),
    "closed_form/reward": Label("expected reward", better="↑"),
    "closed_form/kl_reference": Label("exact KL(π‖π_ref), nats"),
    "closed_form/kl_optimum": Label("KL to the optimum, nats", better="↓"),
    FRONTIER_SHARE: Label("fraction of the possible reward gain", better="↑"),
}

PROGRESS_BAR = {"train/loss": "loss", "train/rewards/accuracies": "accuracy", "train/rewards/margins": "margin"}
"""Metrics in the progress bar and their short names."""


def panels() -> dict[str, list[str]]:
    """The metrics of each panel of `curves.png`."""
    found: dict[str, list[str]] = {}
    for name, label in LABELS.items():
        if label.panel:
            found.setdefault(label.panel, []).append(name)
    return found
