import weakref

import pytest
from omegaconf import OmegaConf

from lightning_dpo import UserError
from lightning_dpo.sweep_jobs import SWEPT_VARIABLE, job_folder, own_command, run_in_sweep


@pytest.mark.parametrize(
    ("swept", "overrides", "name"),
    [
        ("", ["loss.beta=0.1"], "4"),
        ("loss.beta", ["data=hh", "loss.beta=0.1"], "4_beta-0.1"),
        ("loss,seed", ["loss=ipo", "+seed=3"], "4_loss-ipo_seed-3"),
        ("model.name", ["model.name=../../etc/passwd"], "4_name-passwd"),
        ("data.path", ["data.path='a b=c.jsonl'"], "4_path--a-b-c.jsonl"),
    ],
)
def test_a_jobs_folder_has_its_number_and_short_values(monkeypatch, swept, overrides, name):
    monkeypatch.setenv(SWEPT_VARIABLE, swept)
    assert job_folder(4, overrides) == name


def test_long_values_are_cut_and_kept_apart(monkeypatch):
    monkeypatch.setenv(SWEPT_VARIABLE, "data.path")
    names = {job_folder(0, [f"data.path={'x' * 200}{end}"]) for end in "ab"}
    assert len(names) == 2
    assert all(len(name) < 100 for name in names)


def test_the_command_of_one_job_alone(tmp_path):
    config = OmegaConf.create({"run_folder": str(tmp_path), "ckpt_path": "last"})
    overrides = ["sweep=beta", "loss.beta=0.1", "sweep_folder=old", "ckpt_path=null"]
    _, *command = own_command(config, overrides, ["--config-dir", "/conf", "-m", "loss.beta=0.1,0.2"])
    assert command == [
        "-m", "lightning_dpo.train", "--config-dir", "/conf", "sweep=beta", "loss.beta=0.1", "ckpt_path=last",
        "hydra.mode=RUN", f"hydra.run.dir='{tmp_path}'",
    ]  # fmt: skip


class Model:
    """What takes memory."""


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
    with pytest.raises(UserError, match=r"0 failed: no memory for Model \(given again with sweep_folder=") as failed:
        run_in_sweep(train, config)
    assert failed.value.__context__ is None
    assert held[0]() is None
    assert "Traceback" in (tmp_path / "0" / "error.txt").read_text()
