import csv
import logging
from urllib.parse import urlsplit

import pytest
import torch
import wandb

from lightning_dpo.checkpoints.reading import FORMAT
from lightning_dpo.runs.loggers import csv_logger, join_lightning_logs, wandb_logger


def rows_of(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_metrics_of_a_resumed_run_stay(tmp_path):
    first = csv_logger(str(tmp_path))
    first.log_metrics({"train/loss": 0.5}, step=0)
    first.log_metrics({"val/loss": 0.25}, step=1)
    first.save()
    first.log_metrics({"train/loss": 9.0}, step=2)  # done again: the checkpoint is of the first two steps
    first.save()
    (tmp_path / "checkpoints").mkdir()
    names = ("trained_with", "has_rewards", "tensors", "packages", "validated_step")
    entry = {"format": FORMAT} | dict.fromkeys(names)
    saved = {"global_step": 2, "state_dict": {}, "lightning_dpo": entry}
    torch.save(saved, tmp_path / "checkpoints" / "last.ckpt")
    second = csv_logger(str(tmp_path))
    second.log_metrics({"train/loss": 0.125}, step=2)
    second.save()
    rows = rows_of(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert [row["train/loss"] for row in rows] == ["0.5", "", "0.125"]
    assert rows[1]["val/loss"] == "0.25"


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "x" * 40}, "online"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_wandb_is_online_where_a_key_is_at_hand(tmp_path, monkeypatch, caplog, environment, mode):
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO):
        logger = wandb_logger(str(tmp_path), project="p", name="n")
    assert logger._wandb_init["mode"] == mode
    assert ("wandb is offline." in caplog.text) == (mode == "offline")


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        ("machine HOST login user password KEY", "online"),
        ("machine other.host login user password KEY", "offline"),
        ("machine HOST login", "offline"),  # damaged
    ],
)
def test_the_key_that_wandb_login_writes_is_found(tmp_path, monkeypatch, content, mode):
    (tmp_path / "netrc").write_text(content.replace("HOST", urlsplit(wandb.Settings().base_url).hostname))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", "~/netrc")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert wandb_logger(str(tmp_path), project="p", name="n")._wandb_init["mode"] == mode


def test_a_run_that_resumes_in_its_folder_resumes_in_wandb(tmp_path):
    first, again, other = (wandb_logger(str(tmp_path / name), project="p") for name in ("a", "a", "b"))
    assert first._wandb_init["id"] == again._wandb_init["id"] != other._wandb_init["id"]
    assert first._wandb_init["resume"] == "allow"


def test_the_jobs_of_a_sweep_are_one_group_and_have_names_of_their_own(tmp_path):
    sweep = tmp_path / "reviews-dpo" / "2026-01-02"
    sweep.mkdir(parents=True)
    alone = wandb_logger(str(sweep / "0_beta-0.1"), project="p", name="n")
    assert (alone._wandb_init["name"], alone._wandb_init["group"]) == ("n", None)
    (sweep / "multirun.yaml").touch()
    job, own = (wandb_logger(str(sweep / "0_beta-0.1"), project="p", name="n", group=group) for group in (None, "g"))
    assert (job._wandb_init["name"], job._wandb_init["group"]) == ("n 0_beta-0.1", "reviews-dpo-2026-01-02")
    assert own._wandb_init["group"] == "g"


def test_the_environment_names_a_run_in_wandb(tmp_path, monkeypatch):
    """wandb reads WANDB_TAGS itself, if no tags are given."""
    folder = tmp_path / "my-run" / "2026-01-02"
    default = wandb_logger(str(folder))._wandb_init
    assert (default["project"], default["name"], default["tags"]) == ("lightning-dpo", "my-run", None)
    for name, value in {"PROJECT": "p", "NAME": "n", "RUN_ID": "agent1"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    found = wandb_logger(str(folder))._wandb_init
    assert (found["project"], found["name"], found["id"]) == ("p", "n", "agent1")
    given = wandb_logger(str(folder), project="q", name="m", tags=["a"])._wandb_init
    assert (given["project"], given["name"], given["tags"]) == ("q", "m", ["a"])
    (folder / "multirun.yaml").parent.mkdir(parents=True)
    (folder / "multirun.yaml").touch()
    jobs = [wandb_logger(str(folder / name))._wandb_init for name in ("0_a", "1_b")]
    assert [job["name"] for job in jobs] == ["n 0_a", "n 1_b"]
    assert len({job["id"] for job in jobs} - {"agent1"}) == 2


def test_lightnings_records_come_once_and_without_advertisements(caplog):
    join_lightning_logs()
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO):
        log.info("GPU available")
        log.info("💡 Tip: buy something")
    assert caplog.messages == ["GPU available"]
