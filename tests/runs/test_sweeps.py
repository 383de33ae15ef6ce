"""Sweeps by their command: what each job leaves, what is done again, and what is not."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lightning_dpo.cli.config import ROOT
from lightning_dpo.runs.history import read_history
from tests.support.command import TINY, command, command_on_ranks


def jobs(sweep) -> list[str]:
    return sorted(path.name for path in sweep.iterdir() if path.is_dir())


def test_a_finished_job_of_other_settings_is_not_taken_for_this_one(tmp_path):
    overrides = (*TINY, "-m", "loss.beta=0.1,0.5", "sweep_folder=sweep")
    assert command(tmp_path, *overrides)[0] == 0
    status, output = command(tmp_path, *overrides, "optimizer.lr=1e-3")
    assert status == 1
    assert "contains a job with other settings: optimizer.lr was 0.0005 and is 0.001; use another" in output
    assert "Launching" not in output
    assert "optimizer.lr" not in (tmp_path / "sweep" / "0_beta-0.1" / "command.txt").read_text()


def test_two_devices_for_each_job(tmp_path):
    """Lightning starts the second rank itself: of the job, not of the sweep."""
    status, output = command(tmp_path, "-m", "loss.beta=0.1", *TINY, "strategy=ddp", "trainer.devices=2")
    assert status == 0, output
    (sweep,) = (tmp_path / "outputs" / "reviews-dpo").iterdir()
    assert jobs(sweep) == ["0"]  # a single value is not swept
    checkpoint = torch.load(sweep / "0" / "checkpoints" / "last.ckpt", weights_only=True)
    trained_with = checkpoint["lightning_dpo"]["trained_with"]
    assert trained_with["order"]["the number of devices"] == "2"
    assert trained_with["loss"] == {"loss": "DPO(beta=0.1, label_smoothing=0.0)"}
    assert "GLOBAL_RANK: 1" in (sweep / "0" / "train_ddp_process_1.log").read_text()


def test_two_ranks_of_torchrun_go_through_a_sweep_together(tmp_path):
    """A job that both refuse, and then one that both do."""
    arguments = ("-m", "loss.beta=-1,0.1,0.5", *TINY, "strategy=ddp", "trainer.devices=2")
    with pytest.raises(AssertionError, match="SystemExit: 1"):
        command_on_ranks(tmp_path, *arguments)
    (sweep,) = (tmp_path / "outputs" / "reviews-dpo").iterdir()
    assert jobs(sweep) == ["0_beta--1", "1_beta-0.1", "2_beta-0.5"]
    for name, beta in (("1_beta-0.1", 0.1), ("2_beta-0.5", 0.5)):
        checkpoint = torch.load(sweep / name / "checkpoints" / "last.ckpt", weights_only=True)
        trained_with = checkpoint["lightning_dpo"]["trained_with"]
        assert trained_with["order"]["the number of devices"] == "2"
        assert trained_with["loss"] == {"loss": f"DPO(beta={beta}, label_smoothing=0.0)"}
        assert (sweep / name / "train_rank1.log").exists()
    report = (sweep / "report.md").read_text()
    assert "3 runs: 2 finished, 1 failed." in report
    assert "| 0\\_beta--1 | failed | -1 |" in report


def test_a_rank_of_torchrun_that_fails_ends_the_sweep(tmp_path):
    """The other one waits for it in the job; in the next one they would take each other's numbers for their own."""
    arguments = ("-m", "loss.beta=0.1,0.5", *TINY, "strategy=ddp", "trainer.devices=2", "sweep_folder=sweep")
    with pytest.raises(AssertionError, match="SystemExit: 1"):
        command_on_ranks(tmp_path, *arguments, rank_1_fails=True)
    assert jobs(tmp_path / "sweep") == ["0_beta-0.1"]
    assert (tmp_path / "sweep" / "0_beta-0.1" / "error.txt").read_text().startswith("OSError: no space left")


def test_jobs_by_submitit(tmp_path):
    """Their report has the mean over the two seeds: `${seed}` is in many settings of a real run."""
    status, output = command(tmp_path, "-m", "seed=0,1", *TINY, "hydra/launcher=submitit_local")
    assert status == 0, output
    (sweep,) = (tmp_path / "outputs" / "reviews-dpo").iterdir()
    assert jobs(sweep) == [".submitit", "0_seed-0", "1_seed-1"]
    metrics = [json.loads((sweep / name / "metrics.json").read_text()) for name in jobs(sweep)[1:]]
    report = (sweep / "report.md").read_text()
    assert "2 runs: 2 finished." in report
    table = report.partition("## Over seeds")[2].partition("## Runs")[0]
    (row,) = [line for line in table.splitlines() if line.startswith("| 2 |")]
    assert f"{(metrics[0]['val/loss'] + metrics[1]['val/loss']) / 2:.3f} ±" in row


def test_slurm_is_asked_for_where_it_is(tmp_path, monkeypatch):
    status, output = command(tmp_path, "-m", "loss.beta=0.1,0.5", *TINY, "hydra/launcher=submitit_slurm", path=tmp_path)
    assert status == 1
    assert output.startswith("Error: hydra.launcher starts jobs with SLURM, but sbatch is not installed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("-m", "loss.beta=0.1,0.5", "ckpt_path=last"),
            "ckpt_path has no effect in a sweep: to resume it, set sweep_folder",
        ),
        (("-m", "loss.beta=0.1,0.5", "sweep_folder=run"), "sweep_folder=run is the folder of a single run"),
        (
            ("-m", "loss.beta=0.1,0.5", "sweep_folder=other"),
            "sweep_folder=other is not the folder of a sweep: set it to outputs/NAME/TIME",
        ),
        (
            ("-m", "loss.beta=0.1,0.5", "sweep_folder=file"),
            "sweep_folder=file is not the folder of a sweep: set it to outputs/NAME/TIME",
        ),
        (("sweep_folder=new",), "sweep_folder has no effect without a sweep: choose one with sweep=..., or set values"),
    ],
)
def test_what_is_not_a_sweep_is_reported_before_its_first_job(tmp_path, arguments, message):
    for folder, file in (("run", "config.yaml"), ("other", "thesis.tex")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    (tmp_path / "file").touch()
    status, output = command(tmp_path, *arguments, *TINY)
    assert status == 1
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("*/0*"))


def test_the_other_commands_have_sweeps_as_well(tmp_path, model_folder, hh_file):
    options = ("model=llama", f"model.name={model_folder}", "data=hh", f"data.path={hh_file}", "data.val_fraction=0.2")
    status, output = command(tmp_path, "-m", "data.max_length=64,128", *options, module="inspect_data")
    assert status == 0, output
    assert len(list(tmp_path.glob("outputs/*/*/*_max_length-*/inspect_data.log"))) == 2


def test_the_command_of_a_wandb_agent(tmp_path):
    """As wandb builds it from sweeps/wandb.yaml: it parses, and the values arrive."""
    sweep = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / "wandb.yaml"), resolve=False)
    values = {"optimizer.lr": {"value": 3e-06}, "loss.beta": {"value": 0.2}}
    assert values.keys() == sweep["parameters"].keys()
    arguments = create_sweep_command_args({"args": values})["args_no_hyphens"]
    parts = create_sweep_command(sweep["command"])
    assert parts[:4] == ["${env}", "python", "-m", sweep["program"]]
    overrides = [*parts[4 : parts.index("${args_no_hyphens}")], *arguments]
    status, output = command(tmp_path, *TINY, "trainer.max_steps=1", "callbacks.samples=null", *overrides)
    assert status == 0, output
    (run,) = (tmp_path / "outputs" / "reviews-dpo").iterdir()
    config = OmegaConf.load(run / "config.yaml")
    assert (config.optimizer.lr, config.loss.beta) == (3e-06, 0.2)
    assert list(run.glob("wandb/offline-run*"))
    assert sweep["metric"]["name"] in json.loads((run / "metrics.json").read_text())


def test_optuna_optimizes_the_objective(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper", reason="needs the extra `sweep`")
    options = ("sweep=optuna", "hydra.sweeper.n_trials=3", *TINY, "sweep_folder=sweep")
    status, output = command(tmp_path, *options)
    assert status == 0, output
    values = [json.loads((tmp_path / "sweep" / job / "metrics.json").read_text()) for job in jobs(tmp_path / "sweep")]
    assert len(values) == 3
    best = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert best.best_value == max(one["val/rewards/accuracies"] for one in values)
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "3 runs: 3 finished." in report
    assert "sweep=optuna" in report
    status, output = command(tmp_path, *options)  # the same seed: the same values, which are done
    assert status == 0
    assert output.count("is finished and is skipped") == 3


def test_tensorboard_has_the_same_numbers_as_the_csv_file(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    status, output = command(tmp_path, *TINY, "logger=[csv,tensorboard]")
    assert status == 0, output
    (run,) = (tmp_path / "outputs" / "reviews-dpo").iterdir()
    events = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    rows = read_history(run / "metrics.csv")
    for name in ("train/loss", "val/loss", "train/lr", "val/kl"):
        expected = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
