"""The package in somebody else's project: no Hydra, no wandb, a plain Trainer or LightningCLI."""

import subprocess
import sys

import pytest

import lightning_dpo

CHECK = "import sys; assert not {'hydra', 'omegaconf', 'wandb'} & set(sys.modules), sorted(sys.modules)"


def run(folder, code: str, *arguments: str) -> str:
    (folder / "script.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "script.py", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_plain_trainer(tmp_path, model_folder, pairs_file):
    script = f"""
import lightning
from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.losses import DPO

module = DPOModule(policy={str(model_folder)!r}, loss=DPO(beta=0.1))
data = PreferenceDataModule({str(pairs_file)!r}, tokenizer={str(model_folder)!r}, batch_size=8, val_fraction=0.2)
trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
trainer.fit(module, data)
print("steps", trainer.global_step)
{CHECK}
"""
    assert "steps 3" in run(tmp_path, script)


def test_lightning_cli(tmp_path, model_folder, pairs_file):
    script = f"""
from lightning.pytorch.cli import LightningCLI
from lightning_dpo import DPOModule, PreferenceDataModule

cli = LightningCLI(DPOModule, PreferenceDataModule, save_config_callback=None)
print("loss", cli.model.loss, "steps", cli.trainer.global_step)
{CHECK}
"""
    output = run(
        tmp_path, script, "fit",
        f"--model.policy={model_folder}", "--model.loss=lightning_dpo.losses.DPO", "--model.loss.beta=0.2",
        "--model.reference=lightning_dpo.models.Frozen",
        f"--data.path={pairs_file}", f"--data.tokenizer={model_folder}", "--data.val_fraction=0.2",
        "--trainer.max_epochs=1", "--trainer.logger=false", "--trainer.enable_checkpointing=false",
    )  # fmt: skip
    assert "loss DPO(beta=0.2, label_smoothing=0.0) steps 3" in output


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'DPOTrainer'"):
        _ = lightning_dpo.DPOTrainer
    assert lightning_dpo.__version__
