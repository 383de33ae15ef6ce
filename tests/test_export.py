import csv
import json
import shlex
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_dpo.errors import UserError
from lightning_dpo.export import export_checkpoint, main
from lightning_dpo.train import train
from tests.support.compose import composed
from tests.support.training import small


@pytest.fixture
def run(tmp_path, model_folder, hh_file, request):
    folder = tmp_path / "outputs" / "name" / "time"
    (folder / ".hydra").mkdir(parents=True)
    overrides = [
        "model=llama",
        "data=hh",
        "logger=csv",
        "callbacks.samples=null",
        f"adapter={getattr(request, 'param', 'none')}",
    ]
    config = composed(folder, *overrides, *small(model_folder, hh_file), "trainer.max_epochs=2")
    # As Hydra leaves it.
    train(config)
    # As the command line leaves it.
    (folder / "command.txt").write_text(shlex.join(["python", "-m", "lightning_dpo.train", *overrides]) + "\n")
    return folder


@pytest.mark.parametrize("run", ["none", "lora"], indirect=True)
def test_the_last_checkpoint_is_what_the_run_exported_itself(run):
    folder = export_checkpoint(run, "last", merge=False)
    assert folder == run / "export_last"
    (name,) = (file.name for file in folder.glob("*.safetensors"))
    assert (folder / name).read_bytes() == (run / "export" / name).read_bytes()
    assert json.loads((folder / "lightning_dpo.json").read_text()) == json.loads(
        (run / "export" / "lightning_dpo.json").read_text()
    )


def test_the_best_checkpoint_with_its_card(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export", str(run)])
    main()
    folder = run / "export_best"
    assert capsys.readouterr().out.strip() == str(folder)
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    exported = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, saved["state_dict"][f"policy.{name}"]) for name, value in exported.items())
    card = (folder / "README.md").read_text()
    assert f"The weights are those of optimizer step {saved['global_step']}" in card
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    row = next(row for row in rows if int(row["step"]) == saved["global_step"] - 1)
    for name in ("val/rewards/accuracies", "val/loss"):
        assert f"| {name} | {float(row[name]):.4f} |" in card
    assert "- train: 19" in card
    assert "Command: `python -m lightning_dpo.train model=llama data=hh logger=csv" in card


@pytest.mark.parametrize("run", ["lora"], indirect=True)
def test_merged_on_request(run):
    export_checkpoint(run, "last", merge=True)
    assert (run / "export_last" / "adapter_model.safetensors").exists()
    merged = run / "export_last_merged"
    assert AutoModelForCausalLM.from_pretrained(merged).num_parameters() > 0
    cards = ((path / "README.md").read_text() for path in (run / "export_last", merged))
    libraries = ["peft" if "library_name: peft" in card else "transformers" for card in cards]
    assert libraries == ["peft", "transformers"]


def test_what_cannot_be_exported(run, tmp_path):
    with pytest.raises(UserError, match="--merge has no effect: the run trained all weights"):
        export_checkpoint(run, "last", merge=True)
    with pytest.raises(UserError, match=r"nowhere is not the folder of a run: .*config.yaml does not exist"):
        export_checkpoint(tmp_path / "nowhere", "last", merge=False)
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best.ckpt does not exist; the run has last"):
        export_checkpoint(run, "best", merge=False)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("lightning_dpo.losses.DPO", "os.system"))
    export_checkpoint(run, "last", merge=False)  # the loss is not built
    config.write_text(config.read_text().replace("lightning_dpo.models.NoAdapter", "os.system"))
    with pytest.raises(UserError, match=r"adapter._target_=os.system is not allowed"):
        export_checkpoint(run, "last", merge=False)
    config.write_text("a: ${b}")
    with pytest.raises(UserError, match=r"config.yaml is not the config of a run"):
        export_checkpoint(run, "last", merge=False)
