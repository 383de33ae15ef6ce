"""Ways to make Hydra execute code, or write files, from a config: each is refused before a job begins."""

from pathlib import Path

import pytest

from lightning_dpo.cli.config import register_folders, register_resolvers
from lightning_dpo.cli.hydra_checks import check_hydra
from lightning_dpo.errors import UserError

EVIL = "{_target_: torch.load, f: bomb.pt, weights_only: false}"
SUGGESTED = """suggested:
  x: ['()', torch.load]
  formatter: {'()': torch.load, f: bomb.pt}
  class: evil.Class
"""


def check(folder: Path, text: str, *flags: str, overrides: tuple[str, ...] = ()) -> None:
    """With an experiment of one's own that holds `text`."""
    register_folders()
    register_resolvers()
    (folder / "experiment").mkdir()
    (folder / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    check_hydra([*flags, "--config-dir", str(folder), "experiment=own", *overrides], "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "hydra: {job: {env_set: {LIGHTNING_DPO_TARGETS: subprocess.}}}",
            "hydra.job.env_set is not allowed: set",
        ),
        ("hydra: {job: {env_set: '${suggested}'}}\nsuggested: {PYTHONPATH: x}", "hydra.job.env_set is not allowed"),
        (f"hydra: {{callbacks: {{x: {EVIL}}}}}", "hydra.callbacks.x._target_=torch.load is not allowed"),
        (f"hydra: {{callbacks: '${{evil2}}'}}\nevil2: {{x: '${{evil}}'}}\nevil: {EVIL}", "may change before the job"),
        ("hydra: {callbacks: {x: {_target_: '${oc.env:LIGHTNING_DPO_SWEPT,a}'}}}", "may change before the job"),
        ("hydra: {overrides: {task: [model.trust_remote_code=true]}}", "only the command line sets it"),
        ("hydra: {sweeper: {params: {+hydra.job.env_set.X: '1,2'}}}", "is allowed only on the command line"),
        ("hydra: {callbacks: {x: {_target_: '${hydra:job.name}'}}}", "may change before the job"),
        ("hydra: {callbacks: {x: '${hydra:runtime.choices}'}}", "may change before the job"),
        ("hydra: {job_logging: {formatters: {x: '${suggested.formatter}'}}}", "may change before the job"),
        ("hydra: {job_logging: {formatters: {x: {class: '${suggested.class}'}}}}", "may change before the job"),
        ("hydra: {hydra_logging: {handlers: {x: {class: evil.Handler}}}}", "class=evil.Handler is not allowed"),
        ("hydra: {job_logging: {handlers: {console: {stream: 'ext://evil.f'}}}}", "stream=ext://evil.f is not allowed"),
        ("hydra: {job_logging: {handlers: {file: {filename: metrics.csv}}}}", "filename=metrics.csv is not allowed"),
        (
            "hydra: {job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/../x'}}}}",
            "filename=.* is not allowed: its value may change",
        ),
        ("hydra: {sweeper: {params: {model.trust_remote_code: true}}}", "trust_remote_code is allowed only on the com"),
        ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_=os.system is not allowed"),
    ],
)
def test_hydra_executes_nothing_that_a_config_names(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        check(tmp_path, f"{text}\n{'' if 'suggested:' in text else SUGGESTED}")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("hydra: {job_logging: {root: {level: DEBUG}, formatters: {simple: {format: '%(message)s'}}}}", ()),
        ("hydra: {verbose: true}", ()),
        ("loss: {beta: 0.3}", ("-m",)),
        ("hydra: {sweeper: {params: {seed: '0,1'}}}", ("-m",)),
    ],
)
def test_what_people_configure_is_allowed(tmp_path, text, flags):
    check(tmp_path, text, *flags)


def test_a_group_that_is_swept_over_is_checked_for_each_of_its_jobs(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.yaml").write_text("# @package _global_\nloss: {beta: 0.3}\n")
    (tmp_path / "own" / "b.yaml").write_text(
        "# @package _global_\nhydra: {job_logging: {formatters: {x: {(): os.getcwd}}}}\n"
    )
    with pytest.raises(UserError, match="must not call a function"):
        check(tmp_path, "hydra: {mode: MULTIRUN, sweeper: {params: {+own: 'a,b'}}}")


@pytest.mark.parametrize("option", ["hydra/job_logging=disabled", "hydra/launcher=submitit_local"])
def test_what_people_choose_is_allowed(tmp_path, option):
    check(tmp_path, "optimizer: {lr: 1.0e-3}", overrides=(option,))
