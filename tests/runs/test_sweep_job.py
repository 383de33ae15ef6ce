import re
import weakref

import pytest
from omegaconf import OmegaConf

from lightning_dpo import UserError
from lightning_dpo.runs.job_process import own_command
from lightning_dpo.runs.sweep_job import SWEPT_VARIABLE, job_folder, run_in_sweep


@pytest.mark.parametrize(
    ("swept", "overrides", "name"),
    [
        ("", ["loss.beta=0.1"], "4"),
        ("loss.beta", ["data=hh", "loss.beta=0.1"], "4_beta-0.1"),
        ("loss,seed", ["loss=ipo", "+seed=3"], "4_loss-ipo_seed-3"),
        ("model.name", ["model.name=../../etc/passwd"], "4_name-passwd-HASH"),
        ("data.path", ["data.path='a b=c.jsonl'"], "4_path--a-b-c.jsonl-HASH"),
    ],
)
def test_a_jobs_folder_has_its_number_and_short_values(monkeypatch, tmp_path, swept, overrides, name):
    monkeypatch.setenv(SWEPT_VARIABLE, swept)
    assert re.sub("-[0-9a-f]{6}$", "-HASH", job_folder(str(tmp_path), 4, overrides)) == name


def test_long_values_are_cut_and_kept_apart(monkeypatch):
    monkeypatch.setenv(SWEPT_VARIABLE, "data.path")
    names = {job_folder("none", 0, [f"data.path={path}"]) for path in ("x" * 200 + "a", "x" * 200 + "b", "a/x", "b/x")}
    assert len(names) == 4
    assert all(len(name) < 100 for name in names)


def test_in_a_longer_list_a_job_has_the_folder_of_its_values(monkeypatch, tmp_path):
    monkeypatch.setenv(SWEPT_VARIABLE, "loss.beta")
    for name in ("0_beta-0.1", "1_beta-0.15", "2_x_beta-0.2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    names = [job_folder(str(tmp_path), number, [f"loss.beta={beta}"]) for number, beta in enumerate((0.05, 0.1, 0.2))]
    assert names == ["0_beta-0.05", "0_beta-0.1", "2_beta-0.2"]


def test_the_command_of_one_job(tmp_path):
    config = OmegaConf.create({"run_folder": f"{tmp_path}/it's", "ckpt_path": "last"})
    sources = [
        {"schema": "pkg", "provider": "hydra", "path": "hydra.conf"},
        {"schema": "file", "provider": "main", "path": "/ours"},
        {"schema": "file", "provider": "command-line", "path": "/conf"},
        {"schema": "structured", "provider": "schema", "path": ""},
    ]
    overrides = ["sweep=beta", "loss.beta=0.1", "sweep_folder=old", "ckpt_path=null"]
    hydra = {"overrides": {"task": overrides}, "runtime": {"config_sources": sources}, "job": {"config_name": "train"}}
    _, *command = own_command(config, OmegaConf.create(hydra))
    assert command == [
        "-m", "lightning_dpo.train", "sweep=beta", "loss.beta=0.1", "ckpt_path=last",
        'hydra.searchpath=["file:///conf"]', "hydra.mode=RUN", f'hydra.run.dir="{tmp_path}/it\'s"',
    ]  # fmt: skip


class Model:
    """What takes memory."""


def unreported(sweep):
    """A report that is not asked for, as these jobs are in no sweep's folder."""
    raise AssertionError(sweep)


def test_a_job_that_fails_leaves_its_error_and_no_memory(tmp_path):
    held = []

    def train(config):
        model = Model()
        model.itself = model  # as modules are held by their hooks: no reference count frees it
        held.append(weakref.ref(model))
        raise RuntimeError(f"no memory for {type(model).__name__}")

    config = OmegaConf.create(
        {"run_folder": str(tmp_path / "0"), "sweep_objective": "x", "ckpt_path": None}
        | {"trainer": {"devices": 1, "num_nodes": 1}}
    )
    (tmp_path / "0").mkdir()
    with pytest.raises(
        UserError,
        match=r"0 failed: RuntimeError: no memory for Model \(to repeat failed jobs, start the sweep again",
    ) as failed:
        run_in_sweep(train, unreported, config)
    assert failed.value.__context__ is None
    assert held[0]() is None
    assert "Traceback" in (tmp_path / "0" / "error.txt").read_text()


def test_a_job_that_is_done_leaves_no_memory(tmp_path):
    held = []

    def train(config):
        model = Model()
        model.itself = model
        held.append(weakref.ref(model))
        return 0.5

    settings = {"run_folder": str(tmp_path / "0"), "ckpt_path": None, "trainer": {"devices": 1, "num_nodes": 1}}
    assert run_in_sweep(train, unreported, OmegaConf.create(settings)) == 0.5
    assert held[0]() is None
