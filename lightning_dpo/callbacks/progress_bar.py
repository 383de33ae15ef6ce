"""The progress bar, with loss, accuracy and margin of the step under short names."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lightning_dpo.labels import PROGRESS_BAR


class PreferenceProgressBar(RichProgressBar):
    """Lightning's rich progress bar with three metrics."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metrics of the bar, under short names."""
        values = trainer.progress_bar_metrics
        return {short: f"{values[name]:.3f}" for name, short in PROGRESS_BAR.items() if name in values}
