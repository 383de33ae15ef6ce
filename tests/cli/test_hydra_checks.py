"""Ways to make Hydra execute code, or write files, from a config: each is rejected before a job begins."""

from pathlib import Path

import pytest

from tests.support.command import TINY, command

BOMB = "{_target_: torch.load, f: bomb.pt, weights_only: false}"
CALL = "{formatters: {x: {'()': builtins.open, file: EXECUTED, mode: w}}}"
SWEPT = "${oc.env:LIGHTNING_DPO_SWEPT,none}"
SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"


def run(folder: Path, text: str, *arguments: str, files: dict[str, str] | None = None) -> tuple[int, str]:
    """The command with an experiment of one's own that contains `text`."""
    for name, content in {"experiment/own.yaml": f"# @package _global_\n{text}\n", **(files or {})}.items():
        (folder / "my" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "my" / name).write_text(content)
    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if argument not in flags]
    return command(folder, *flags, "--config-dir=my", "experiment=own", *TINY, *overrides)


ATTACKS = {
    "callback": (f"hydra: {{callbacks: {{x: {BOMB}}}}}", "hydra.callbacks.x._target_=torch.load is not allowed"),
    "callback behind an interpolation": (
        f"hydra: {{callbacks: '${{evil2}}'}}\nevil2: {{x: '${{evil}}'}}\nevil: {BOMB}",
        "may change before the job",
    ),
    "callback that depends on the environment": (
        f"hydra: {{callbacks: {{x: {{_target_: '{SWEPT}'}}}}}}",
        "may change before the job",
    ),
    "a function that a plugin imports": (
        f"hydra: {{callbacks: {{x: {{_target_: {SUBMITIT}.Path.write_text, _args_: [EXECUTED]}}}}}}",
        "is not allowed: it is not a callback of",
    ),
    "environment": ("hydra: {job: {env_set: {PATH: my/bin}}}", "hydra.job.env_set is not allowed"),
    "environment that depends on the mode": (
        "hydra: {env: {e_None: {}}, job: {env_set: '${oc.select:hydra.env.e_${hydra.mode}}'}}",
        "hydra.job.env_set is not allowed",
    ),
    "overrides": ("hydra: {overrides: {task: [model.trust_remote_code=true]}}", "only the command line sets it"),
    "overrides of the jobs of a sweep": (
        "hydra: {mode: MULTIRUN, overrides: {hydra: [model.trust_remote_code=true]}}",
        "hydra.overrides.hydra=model.trust_remote_code=true is not allowed",
    ),
    "sweep of Hydra's config": (
        "hydra: {sweeper: {params: {+hydra.job.env_set.X: '1,2'}}}",
        "is allowed only on the command line",
    ),
    "sweep of trust": ("hydra: {sweeper: {params: {model.trust_remote_code: true}}}", "only on the command line"),
    "sweep behind an interpolation": (
        f"hydra: {{env: {{nnone: {{seed: '1'}}}}, sweeper: {{params: '${{oc.select:hydra.env.n{SWEPT}}}'}}}}",
        "may change before the job",
    ),
    "launcher": ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_=os.system is not allowed"),
    "logging calls a function": (f"hydra: {{job_logging: {CALL}}}", "is not allowed in a logging config"),
    "logging sets attributes": (
        "hydra: {job_logging: {handlers: {file: {delay: true, '.': {baseFilename: EXECUTED}}}}}",
        "hydra.job_logging.handlers.file.. is not allowed in a logging config",
    ),
    "logging imports a class": (
        "hydra: {hydra_logging: {handlers: {x: {class: evil.Handler}}}}",
        "class=evil.Handler is not allowed",
    ),
    "logging imports an object": (
        "hydra: {job_logging: {handlers: {console: {stream: 'ext://evil.f'}}}}",
        "stream=ext://evil.f is not allowed",
    ),
    "logging filters": ("hydra: {job_logging: {filters: {x: {'()': os.getcwd}}}}", "filters is not allowed in"),
    "log file": ("hydra: {job_logging: {handlers: {file: {filename: EXECUTED}}}}", "filename=EXECUTED is not allowed"),
    "log file of another name": ("hydra: {job: {name: ../../EXECUTED}}", "hydra.job.name=../../EXECUTED: use letters"),
    "log file that is truncated": (
        "hydra: {job_logging: {handlers: {file: {mode: w}}}}",
        "mode is not allowed in a logging config",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hydra_executes_nothing_that_a_config_names(tmp_path, name):
    text, message = ATTACKS[name]
    status, output = run(tmp_path, text)
    assert status == 1
    assert message in output
    assert not list(tmp_path.rglob("EXECUTED*"))


@pytest.mark.parametrize("flag", ["--help", "--hydra-help", "--cfg=job", "--info=all"])
def test_help_executes_nothing_either(tmp_path, flag):
    folder = tmp_path / "my" / "hydra" / "hydra_logging"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"# @package hydra.hydra_logging\nversion: 1\n{CALL[1:-1]}\n")
    status, output = command(tmp_path, flag, "--config-dir=my", "hydra/hydra_logging=mine")
    assert status == 1
    assert "is not allowed in a logging config" in output
    assert not list(tmp_path.rglob("EXECUTED"))


def test_a_config_that_is_another_one_for_the_job_is_checked_for_the_job(tmp_path):
    """The experiment chooses a file by a variable that is set between two compositions."""
    files = {"opt/xnone.yaml": "{}\n", "opt/x.yaml": f"hydra: {{callbacks: {{x: {BOMB}}}}}\n"}
    text = f"defaults: [/opt@_global_: 'x{SWEPT}']"
    status, output = run(tmp_path, text, files=files)
    assert (status, "hydra.callbacks.x._target_=torch.load is not allowed" in output) == (1, True)


def test_every_folder_of_the_search_path_is_checked(tmp_path):
    (tmp_path / "other" / "experiment").mkdir(parents=True)
    (tmp_path / "other" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 1\n")
    status, output = run(tmp_path, f"hydra: {{callbacks: {{x: {BOMB}}}}}", "hydra.searchpath=[file://other]")
    assert (status, "torch.load is not allowed" in output) == (1, True)


def test_a_swept_group_is_checked_for_each_job_before_the_first(tmp_path):
    files = {
        "own/a.yaml": "# @package _global_\nloss: {beta: 0.3}\n",
        "own/b.yaml": "# @package _global_\nhydra: {job_logging: {formatters: {x: {(): os.getcwd}}}}\n",
    }
    status, output = run(tmp_path, "hydra: {mode: MULTIRUN, sweeper: {params: {+own: 'a,b'}}}", files=files)
    assert (status, "is not allowed in a logging config" in output) == (1, True)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("setup: [touch EXECUTED]", "hydra.launcher.setup is executed by a shell"),
        # A new line ends the comment in which submitit's script contains the value.
        ('name: "x\\ntouch EXECUTED"', "hydra.launcher.name='x\\ntouch EXECUTED' is not allowed"),
    ],
)
def test_a_file_cannot_add_commands_to_a_launcher(tmp_path, launcher, message):
    text = "defaults: [override /hydra/launcher: mine]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}"
    files = {"hydra/launcher/mine.yaml": f"_target_: {SUBMITIT}.LocalLauncher\n{launcher}\n"}
    status, output = run(tmp_path, text, files=files)
    assert (status, message in output) == (1, True)
    assert not list(tmp_path.rglob("EXECUTED"))


def test_a_pickled_job_is_not_executed_again(tmp_path):
    status, output = command(tmp_path, "--experimental-rerun", "config.pickle")
    assert (status, "--experimental-rerun is not allowed" in output) == (1, True)


LEGAL = {
    "log level": ("hydra: {job_logging: {root: {level: DEBUG}, formatters: {simple: {format: '%(message)s'}}}}", ()),
    "verbose": ("hydra: {verbose: true}", ()),
    "a sweep": ("loss: {beta: 0.3}", ("-m", "seed=0,1")),
    "parameters of a sweep": ("hydra: {sweeper: {params: {seed: '0,1'}}}", ("-m",)),
    "no log file": ("seed: 1", ("hydra/job_logging=disabled",)),
    "another name of the log": ("hydra: {job: {name: mine}}", ()),
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_people_configure_is_allowed(tmp_path, name):
    text, arguments = LEGAL[name]
    status, output = run(tmp_path, text, *arguments, "trainer.max_steps=1")
    assert status == 0, output


def test_commands_of_launchers_are_allowed_on_the_command_line(tmp_path):
    arguments = ("hydra/launcher=submitit_local", "+hydra.launcher.setup=[true]", "--cfg=job")
    status, output = run(tmp_path, "seed: 1", *arguments)
    assert status == 0, output


@pytest.mark.parametrize(
    ("file", "refused"),
    [
        ("loss/dpo.yaml", True),
        ("data/source/jsonl.yaml", True),
        ("train.yaml", True),
        ("loss/mine.yaml", False),
        ("experiment/reviews.yaml", True),
        ("sweep/beta.yaml", True),
        ("evaluate.yaml", True),
        ("loss/mine.yml", True),
    ],
)
def test_a_file_with_the_name_of_a_packaged_one_is_rejected(tmp_path, file, refused):
    own = {"experiment/own.yaml": "# @package _global_\n{}\n", file: "# @package _global_\n{}\n"}
    status, output = run(tmp_path, "", "--cfg=job", files=own)
    assert (status == 1) is refused, output
    if refused:
        assert output.strip().endswith("rename it")
        assert f"my/{file} " in output


def test_a_part_of_a_sweeper_must_belong_to_it(tmp_path):
    status, output = command(tmp_path, "-m", "+hydra.sweeper.sampler._target_=os.system", "loss.beta=1,2", *TINY)
    assert status == 1
    assert "hydra.sweeper.sampler._target_=os.system is not allowed: it is not a part of an installed" in output


def test_a_search_for_the_worst_is_rejected(tmp_path):
    status, output = command(tmp_path, "-m", "+hydra.sweeper.direction=minimize", "loss.beta=1,2", *TINY)
    assert status == 1
    assert "direction=minimize would search for the worst val/rewards/accuracies: set it to maximize" in output
