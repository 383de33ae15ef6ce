import csv
import json
import math

import lightning
import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lightning_dpo import DPOModule, UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO
from lightning_dpo.train import train
from tests.support.chat import CHATML, chat_tokenizer, ultrafeedback_row
from tests.support.compose import NAMED, composed
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs
from tests.support.training import small


def test_a_run_leaves_everything_in_its_folder(tmp_path, model_folder, hh_file):
    folder = tmp_path / "run"
    config = composed(folder, "model=llama", "data=hh", *small(model_folder, hh_file))
    folder.mkdir()
    objective = train(config)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert objective == metrics["val/rewards/accuracies"]
    assert (metrics["steps"], metrics["epochs"]) == (5, 1)
    counts = {"train": 19, "train_overlong": 0, "val": 5, "val_overlong": 0, "invalid": 0}
    assert metrics["data"] == counts
    with (folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 5
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "export" / "README.md").read_text()
    assert "beta: 0.1" in card
    assert f"| accuracy ↑ | {objective:.4g} |" in card
    for name in ("last", "best"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(key.startswith("policy.") for key in checkpoint["state_dict"])
    exported = AutoModelForCausalLM.from_pretrained(folder / "export").state_dict()
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, last[f"policy.{name}"]) for name, value in exported.items())
    assert list((folder / "wandb").glob("offline-run-*"))


def losses(run) -> list[float]:
    """The training losses of a run, by step."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_sft_then_dpo_from_its_export(tmp_path, model_folder, hh_file):
    """Two runs; the second starts from the first one's weights to the last bit, and at ln 2."""
    for name in ("sft", "dpo"):
        (tmp_path / name).mkdir()
    sft = composed(tmp_path / "sft", "model=llama", "data=hh", "loss=sft", "logger=csv", *small(model_folder, hh_file))
    train(sft)
    export = tmp_path / "sft" / "export"
    dpo = composed(tmp_path / "dpo", "model=llama", "data=hh", "logger=csv", *small(export, hh_file))
    train(dpo)
    assert losses(tmp_path / "dpo")[0] == pytest.approx(math.log(2), abs=1e-6)
    batch = padded_batch(random_pairs(4))
    module = DPOModule.load_from_checkpoint(
        tmp_path / "dpo" / "checkpoints" / "last.ckpt", policy=str(export), loss=DPO(0.1)
    )
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / "export")
    expected, actual = (completion_logps(policy, batch).sums for policy in (module.policy, opened))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_lora_then_more_of_the_same_adapter(tmp_path, model_folder, hh_file):
    """Both start at ln 2; the first exports an adapter and the merged model; the second goes on with the adapter."""
    for name in ("new", "more"):
        (tmp_path / name).mkdir()
    options = ["model=llama", "data=hh", "logger=csv", *small(model_folder, hh_file)]
    new = composed(tmp_path / "new", "adapter=lora", "adapter.r=4", "adapter.merge=true", *options)
    assert composed(tmp_path, "model=llama", "data=hh", "adapter=lora").optimizer.lr == 1e-5
    train(new)
    adapter, plain = tmp_path / "new" / "export", tmp_path / "new" / "export_merged"
    batch = padded_batch(random_pairs(4))
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), adapter)
    expected = completion_logps(opened, batch).sums
    merged = AutoModelForCausalLM.from_pretrained(plain)
    torch.testing.assert_close(completion_logps(merged, batch).sums, expected, rtol=0, atol=1e-4)
    train(composed(tmp_path / "more", "adapter=continue", *options, f"model.name={adapter}"))
    for name in ("new", "more"):
        assert losses(tmp_path / name)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert (tmp_path / "more" / "export" / "adapter_model.safetensors").exists()


class Killed(lightning.Callback):
    """Dies after the third optimizer step."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 3:
            raise RuntimeError("killed")


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_ckpt_path_last_resumes_in_the_same_folder(tmp_path, model_folder, hh_file, monkeypatch, adapter):
    from lightning_dpo.runs import trainer as module

    options = ["model=llama", "data=hh", "logger=csv", "callbacks.last.every_n_steps=2", f"adapter={adapter}"]
    options += small(model_folder, hh_file)
    folders = {name: tmp_path / name for name in ("straight", "stopped")}
    for folder in folders.values():
        folder.mkdir()
    train(composed(folders["straight"], *options))

    make_trainer = module.make_trainer

    def make_killed(*arguments):
        trainer = make_trainer(*arguments)
        trainer.callbacks.append(Killed())
        return trainer

    monkeypatch.setattr(module, "make_trainer", make_killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(composed(folders["stopped"], *options))
    monkeypatch.setattr(module, "make_trainer", make_trainer)
    train(composed(folders["stopped"], *options, "ckpt_path=last"))

    straight, stopped = (next((folder / "export").glob("*.safetensors")) for folder in folders.values())
    assert straight.read_bytes() == stopped.read_bytes()
    steps = []
    for folder in folders.values():
        with (folder / "metrics.csv").open(newline="") as file:
            rows = [(row["step"], row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        steps.append(rows)
    assert steps[0] == steps[1]


def test_a_run_without_its_objective_or_its_csv_finishes(tmp_path, model_folder, hh_file, caplog):
    options = small(
        model_folder, hh_file, "trainer.max_steps=1", "logger=csv", "logger.csv=null", "trainer.precision=bf16-mixed"
    )
    objective = train(composed(tmp_path, "model=llama", "data=hh", *options, "sweep_objective=val/nothing"))
    assert math.isnan(objective)
    assert "sweep_objective=val/nothing is not a metric of this run; its metrics are" in caplog.text
    assert (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "curves.png").exists()


def stand_in(experiment: str, folder, model_folder, hh_file, tokenizer) -> list[str]:
    """Overrides that put a tiny model and a few pairs of the same kind in the place of what the hub has."""
    if experiment in ("reviews", "length"):
        return ["model.teaching_steps=2", "data.rows.pairs=200", "data.rows.val_pairs=50"]
    data = hh_file
    if experiment.startswith("ultrafeedback"):
        reads_the_option = "{% if enable_thinking is defined %}{% endif %}" + CHATML
        chat, data = chat_tokenizer(tokenizer, reads_the_option), folder / "ultrafeedback.jsonl"
        make_llama(vocab_size=len(chat), max_position_embeddings=2048).save_pretrained(model_folder)
        chat.save_pretrained(model_folder)
        data.write_text("".join(json.dumps(ultrafeedback_row(f"{n}?", 9, n % 9)) + "\n" for n in range(30)))
    options = ["data.val_fraction=0.2", "model.config={}", "callbacks.samples.max_new_tokens=4"]
    return [f"model.name={model_folder}", f"data.path={data}", *options]


@pytest.mark.parametrize("experiment", [name for _, name in NAMED])
def test_every_experiment_runs_one_step_on_a_stand_in(tmp_path, model_folder, hh_file, experiment, tokenizer):
    overrides = ["trainer.max_steps=1", "logger=csv", "trainer.accelerator=cpu"]
    overrides += stand_in(experiment, tmp_path, model_folder, hh_file, tokenizer)
    config = composed(tmp_path, f"experiment={experiment}", *overrides)
    train(config)
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 1


def test_the_reviews_are_reported_against_the_closed_form(tmp_path, capsys):
    overrides = ["model.teaching_steps=50", "data.rows.pairs=2000", "data.rows.val_pairs=200", "logger=csv"]
    train(composed(tmp_path, "trainer.max_epochs=1", "trainer.accelerator=cpu", *overrides))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    names = (
        "reward", "optimal_reward", "reference_reward", "kl_reference", "optimal_kl_reference", "kl_optimum",
        "kl_optimum_before", "mass_on_reviews", "best_accuracy",
    )  # fmt: skip
    assert all(math.isfinite(metrics[f"closed_form/{name}"]) for name in names)
    assert metrics["closed_form/kl_optimum"] < metrics["closed_form/kl_optimum_before"]
    printed = capsys.readouterr().out
    assert "Comparison with the closed form" in printed
    assert "Casablanca" in printed


def test_what_wandb_and_disk_receive_contains_no_secret(tmp_path, monkeypatch, model_folder, hh_file):
    sentinel = "SENTINEL-0123456789"
    monkeypatch.setenv("WANDB_API_KEY", sentinel)
    config = composed(tmp_path, "model=llama", "data=hh", *small(model_folder, hh_file, "trainer.max_steps=1"))
    OmegaConf.set_struct(config, False)
    config.suggested = {"api_key": sentinel}
    train(config)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert sentinel.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.accumulate_grad_batches=2"], "accumulate_grad_batches is derived from data.pairs_per_step"),
        (["reference=none"], "reference=none: DPO"),
        (["adapter=continue"], "model.name is not an adapter"),
        (["loss=sft", "reference=frozen"], "does not read one"),
        (["reference=adapter_off"], "reference=adapter_off needs an adapter: set adapter=lora"),
        (["loss=sft", "data/source=jsonl", "data.source.offset=o"], r"data.source.offset has no effect: SFT\(\)"),
        (["data.on_invalid=error", "data.path=nowhere.jsonl"], "the file does not exist"),
        (
            ["model.pretrained=false", "model.config={model_type: gpt2, vocab_size: 64, num_hidden_layers: 1}"],
            "a token with the id 298 and the policy has 64",
        ),
        (["model.name=nowhere"], "nowhere is neither a folder"),
        (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
        (["+trainer.logger=false"], r"trainer\.logger is derived from the group logger"),
        (["trainer.accelerator=abacus"], "trainer: You selected an invalid accelerator name"),
        (["data.max_length=4096"], r"data.max_length=4096: the model supports 1024 tokens"),
        (
            ["callbacks.best.monitor=val/accuracy"],
            r"callbacks.best.monitor=val/accuracy: this run does not log it; did you mean val/rewards/accuracies",
        ),
        (["ckpt_path=nowhere.ckpt"], r"nowhere.ckpt does not exist"),
        (["data.layout=share"], "data.layout=share: Input should be 'auto', 'shared' or 'padded'"),
        (
            ["data.layout=shared", "model.attention=eager"],
            "data.layout=shared: LlamaForCausalLM: its attention is eager",
        ),
        (["+profile=maybe"], "profile=maybe must be true or false"),
        (["+profile=true", "callbacks.throughput=null"], "profile=true has no effect without callbacks.throughput"),
    ],
)
def test_user_errors_are_reported(tmp_path, model_folder, hh_file, overrides, message):
    options = small(model_folder, hh_file, "trainer.max_steps=1", "logger=csv")
    with pytest.raises(UserError, match=message):
        train(composed(tmp_path, "model=llama", "data=hh", *options, *overrides))
