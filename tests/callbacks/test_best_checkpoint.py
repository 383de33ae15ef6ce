import pytest
import torch
from lightning import LightningModule
from torch.utils.data import DataLoader

from lightning_dpo.callbacks import BestCheckpoint
from tests.support.training import trainer_for


class Validated(LightningModule):
    """Logs the given value of `val/score` in each validation."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.layer, self.scores = torch.nn.Linear(1, 1), list(scores)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/score", self.scores.pop(0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("mode", "scores", "step"),
    [("max", [0.5, 0.8, 0.8, 0.6], 3), ("max", [0.8, 0.5, 0.6, 0.7], 1), ("min", [0.8, 0.5, 0.5, 0.5], 4)],
)
def test_of_equal_values_the_last_is_kept(tmp_path, mode, scores, step):
    best = BestCheckpoint(str(tmp_path), "val/score", mode)
    trainer = trainer_for(tmp_path, callbacks=[best], max_epochs=4, num_sanity_val_steps=0)
    loader = DataLoader(torch.ones(1, 1))
    trainer.fit(Validated(scores), loader, loader)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == step
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["best.ckpt"]
