import json
import shlex

import pytest
import torch

from lightning_dpo.checkpoints.reading import FORMAT
from lightning_dpo.reports.runs import read_run
from lightning_dpo.reports.summary import conclude, summarize
from tests.support.fake_runs import fake_run

METRICS = {
    "val/rewards/accuracies": 0.6, "val/rewards/margins": 0.25, "val/loss": 0.61, "val/kl": 2.0, "val/kl_stderr": 0.5,
    "val/samples/length": 55.0, "val/samples/reference/length": 50.0, "steps": 20, "seconds": 90.4,
}  # fmt: skip


OVERRIDES = ["model.name=org/llama", "data=hh", "data.path=a b.jsonl", "loss.beta=0.2", "seed=3", "hydra.run.dir=x"]
CHOICES = {"model": "llama", "data": "hh", "loss": "dpo", "adapter": "lora"}


def finished_run(tmp_path, overrides: list[str], choices: dict[str, str]):
    """A finished run with checkpoints, as files."""
    # Validations before the first step, after steps 15 and 16, and after training.
    steps = {0: 0.5, 14: 0.58, 15: 0.59, 20: 0.6}
    history = [{"step": step, "val/loss": 0.6, "val/rewards/accuracies": of} for step, of in steps.items()]
    folder = fake_run(tmp_path, "run", overrides, METRICS, history)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": choices}}}))
    (folder / "checkpoints").mkdir()
    names = ("trained_with", "has_rewards", "tensors", "packages", "validated_step")
    saved = {"global_step": 15, "state_dict": {}, "lightning_dpo": {"format": FORMAT} | dict.fromkeys(names)}
    torch.save(saved, folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture
def run(tmp_path):
    """A finished run on HH."""
    return finished_run(tmp_path, OVERRIDES, CHOICES)


def test_the_results_of_a_run(run):
    assert dict(summarize(read_run(run)).results) == {
        # Wilson's interval of 240 of 400.
        "accuracy": "0.600, 95 % interval 0.551 to 0.647, on 400 validation pairs",
        "reward margin": "0.250",
        "validation loss": "0.6100",
        "KL(π‖π_ref) on sampled answers": "2 ± 0.98 nats per answer",
        "length of sampled answers": "55.0 tokens, +10% of the reference's 50.0",
        "best checkpoint": "step 15 of 20, accuracy 0.580",
        "training": "20 steps in 1 min 30 s",
    }


def test_the_commands_that_follow(run):
    commands = dict(summarize(read_run(run)).commands)
    assert shlex.split(commands["Evaluate the result"]) == [
        "lightning-dpo", "evaluate", "model=llama", "data=hh", "data.path=a b.jsonl", "seed=3",
        f"model.name={run}/export",
    ]  # fmt: skip
    assert shlex.split(commands["Compare values of β"]) == [
        "lightning-dpo", "train", "model.name=org/llama", "data=hh", "data.path=a b.jsonl", "seed=3", "sweep=beta"
    ]  # fmt: skip
    assert list(commands.values())[2:] == [f"lightning-dpo {name} {run}" for name in ("export", "sample", "report")]


def test_a_model_that_was_created_in_code_is_evaluated_from_its_checkpoint(tmp_path):
    overrides = [
        'hydra.searchpath=["/c"]',
        "adapter=lora",
        "adapter.r=2",
        "loss=ipo",
        "loss.beta=0.3",
        "optimizer.lr=1",
    ]
    run = finished_run(tmp_path, overrides, {"model": "my_tiny", "data": "reviews", "adapter": "lora", "loss": "ipo"})
    command = dict(summarize(read_run(run)).commands)["Evaluate the result"]
    assert shlex.split(command) == [
        "lightning-dpo", "evaluate", "model=my_tiny", "data=reviews", "adapter=lora", "loss=ipo",
        'hydra.searchpath=["/c"]', "adapter.r=2", "loss.beta=0.3", f"ckpt_path={run}/checkpoints/last.ckpt",
    ]  # fmt: skip


def test_no_command_leaves_out_the_settings_of_an_experiment(tmp_path):
    run = finished_run(tmp_path, ["experiment=hh_llama", "model.name=org/llama", "loss.beta=0.2"], CHOICES)
    commands = dict(summarize(read_run(run)).commands)
    assert "Evaluate the result" not in commands
    assert "experiment=hh_llama" in shlex.split(commands["Compare values of β"])


def test_warnings_are_repeated_once(run):
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"warnings": ["a | b", "c", "a | b"]}))
    assert summarize(read_run(run)).warnings == ["a | b (2 times)", "c"]


def test_a_run_writes_its_summary_and_prints_it(run, capsys):
    conclude(str(run))
    text = (run / "summary.md").read_text()
    assert "| reward margin | 0.250 |" in text
    assert f"export/ has the last step:\n\n    lightning-dpo export {run}" in text
    assert "\n\n    lightning-dpo train model.name=org/llama data=hh 'data.path=a b.jsonl'" in text
    printed = capsys.readouterr().out
    assert "0.600, 95 % interval 0.551 to 0.647" in printed
    assert f"lightning-dpo export {run}\n" in printed


def test_a_run_without_rewards_and_samples(tmp_path):
    folder = fake_run(tmp_path, "run", ["loss=sft"], {"val/loss": 1.0})
    summary = summarize(read_run(folder))
    assert summary.results == [("validation loss", "1.0000")]
    assert [command for _, command in summary.commands] == [f"lightning-dpo report {folder}"]
