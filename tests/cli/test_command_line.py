import os
import subprocess
import sys
import time
from threading import Event

import pytest
from omegaconf import OmegaConf

from lightning_dpo.cli import command_line
from lightning_dpo.settings import secret_in, without_secrets
from tests.support.pairs import HH_FILE


def run(folder, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lightning_dpo.train", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False
    )


MISTAKES = {
    "loss.bta=1": "loss.bta is not a key of the config; did you mean loss.beta?",
    "+loss.bta=1": "loss.bta: lightning_dpo.losses.DPO has no argument 'bta'; did you mean loss.beta?",
    "model=lama": "model=lama is not an option; did you mean llama? There are gpt2, llama",
    "loss.beta=abc": "loss.beta=abc: Input should be a valid number",
    "loss.beta=-1": "loss: beta must be a positive number, got -1",
    "+trainer.max_epoch=1": "lightning.Trainer has no argument 'max_epoch'; did you mean trainer.max_epochs?",
    "loss._target_=torch.hub.load": "loss._target_=torch.hub.load is not allowed",
    "+x.api_key=SENTINEL": "x.api_key: Hydra would write this secret to the run's folder",
    "+suggested={api_key: SENTINEL}": "api_key: Hydra would write this secret to the run's folder",
    "+hydra.callbacks.x={_target_: builtins.open, file: metrics.csv, mode: w}": "_target_=builtins.open is not allowed",
    "scheduler=null": "Config group override must be a string or a list",
    "run_name=../up": "run_name=../up: use letters, digits",
    "ckpt_path=last": "ckpt_path=last: outputs/reviews-dpo has no unfinished run",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_user_error_is_one_sentence_without_a_traceback(tmp_path, mistake):
    result = run(tmp_path, mistake)
    assert result.returncode == 1
    (line,) = (result.stdout + result.stderr).strip().splitlines()
    assert MISTAKES[mistake] in line
    assert not list(tmp_path.rglob("metrics.csv"))
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"SENTINEL" in file.read_bytes()]


@pytest.mark.parametrize(
    ("hydra", "message"),
    [
        (
            "callbacks: {x: {_target_: builtins.open, file: metrics.csv, mode: w}}",
            "_target_=builtins.open is not allowed",
        ),
        (
            "job_logging: {filters: {x: {'()': os.getcwd}}}",
            "hydra.job_logging.filters is not allowed in a logging config",
        ),
    ],
)
def test_a_config_folder_cannot_make_hydra_call_what_it_likes(tmp_path, hydra, message):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(f"# @package _global_\nhydra:\n  {hydra}\n")
    result = run(tmp_path, "--config-dir", "conf", "experiment=evil")
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+x.api_key=S", "x.api_key"),
        ("++logger.mlflow.credential=S", "logger.mlflow.credential"),
        ("+x={passwd: S}", "passwd"),
        ("+x={a: {b: 1, 'access_key': S}}", "access_key"),
        ("+x.private_key=S", "x.private_key"),
        ("+x.hf_token=S", "x.hf_token"),
        ("+x.bearer=S", "x.bearer"),
        ("+logger.mlflow.tracking_uri=https://me:S@host", "+logger.mlflow.tracking_uri"),
        ("+x.api_key.value=S", "x.api_key.value"),
        ("+x.hfToken=S", "x.hfToken"),
        ("+x.API-KEY=S", "x.API-KEY"),
        ("+x.aws_secret_access_key=S", "x.aws_secret_access_key"),
        ("+x.ssh_key=S", "x.ssh_key"),
        ("+x.signing_key=S", "x.signing_key"),
        ("+x.session_id=S", "x.session_id"),
        ("+x.cookie=S", "x.cookie"),
        ("+x.dsn=S", "x.dsn"),
        ("+x.pat=S", "x.pat"),
        ("+x.jwt=S", "x.jwt"),
        ("+x.auth=[me,S]", "x.auth"),
        ("+x.pass=S", "x.pass"),
        ("+x.token_value=S", "x.token_value"),
        ("+x.key=S", "x.key"),
        ("+x.api_key=${oc.env:NOPE,S}", "x.api_key"),
        ('+x=["HF_TOKEN=S"]', "HF_TOKEN"),
        ('+x={export: "HF_TOKEN=S"}', "HF_TOKEN"),
        ("+x.header='Authorization: S'", "Authorization"),
        ("+x.header='Bearer Sabc'", "+x.header"),
        ("+x.name=hf_abcdefghijklmnopqrstuvwxyzabcdefgh", "+x.name"),
        ("+x.name=sk-abcdefghijklmnopqrstuvwxyz-abcdefgh", "+x.name"),
        ("+x.url=https://S@host", "+x.url"),
        ("+x.url=https://hooks.slack.com/services/T0", "+x.url"),
        ("+x.api_key=${oc.env:KEY}", None),
        ("+x={api_key: '${oc.env:KEY}'}", None),
        ("+x.image_token=S", None),
        ("+x.eot_token=S", None),
        ("+x.token_dropout=0.1", None),
        ("data.path=data/hf_ultrafeedback_binarized.jsonl", None),
        ("data.path=/data/sk-parallel-corpus.jsonl", None),
        ("+x.decoder_start_token=S", None),
        ("+x.password_file=/run/secret", None),
        ("+x.pin_memory=true", None),
        ("+x.url=ssh://git@github.com/a/b", None),
        ("model.name=org/token-model", None),
        ("run_name=my-api_key-study", None),
        ("+model.config.eos_token_id=2", None),
        ("+x.secretary=S", None),
        ("data.path=/data/token=1", None),
        ("data.max_tokens=100", None),
        ("model.tokenizer_name=x", None),
        ("+model.config.eos_token=x", None),
    ],
)
def test_what_is_rejected_as_a_secret_is_redacted_as_one(override, key):
    assert secret_in(override) == key
    if key and not key.startswith("+"):  # otherwise its value is a secret
        name, value = key.split(".")[-1 - key.endswith(".value")], override.rpartition("=")[2]
        assert "S" not in str(without_secrets({"x": {name: "S"}})), value


@pytest.fixture
def in_this_process(monkeypatch):
    """Replaces what `run` reads and sets; returns the arguments that Hydra would get."""
    received = []
    monkeypatch.setattr(command_line, "check_composed_configs", lambda: received.extend(sys.argv[1:]))
    monkeypatch.setattr(command_line, "_STARTED", Event())
    monkeypatch.setattr(sys, "argv", ["train", "loss=dpo", "--config-dir=mine", "seed=1", "-m"])
    # `run` sets these variables, which other tests must not inherit.
    for name in ("HYDRA_FULL_ERROR", "LIGHTNING_DPO_FULL_ERROR"):
        monkeypatch.setenv(name, "0")
    return received


def test_a_value_error_of_a_job_is_a_bug_and_not_explained(in_this_process):
    def job():
        command_line.run_job(lambda config: int("many"), OmegaConf.create())

    with pytest.raises(ValueError, match="invalid literal"):
        command_line.run(job, "train")


def test_flags_may_follow_overrides(in_this_process):
    command_line.run(lambda: None, "train")
    assert in_this_process == ["--config-dir=mine", "-m", "loss=dpo", "seed=1"]


def test_a_traceback_for_those_who_ask(tmp_path):
    assert "Traceback" in run(tmp_path, "loss.beta=-1", HYDRA_FULL_ERROR="1").stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_imports_nothing_heavy(tmp_path, arguments):
    """What makes it slow is what a test can hold still; the time itself is printed."""
    heavy = ("torch", "lightning.pytorch", "transformers", "wandb", "datasets", "matplotlib")
    code = (
        f"import sys; sys.argv[1:] = {arguments}\ntry:\n  from lightning_dpo.train import main; main()\n"
        f"finally:\n  assert not [name for name in {heavy} if name in sys.modules]"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "loss" in result.stdout
    print(f"{' '.join(arguments)}: {time.perf_counter() - start:.2f} s")


@pytest.mark.timeout(240)
def test_a_sweep_is_one_folder_and_one_wandb_run_per_job(tmp_path):
    small = ["model.teaching_steps=2", "data.rows.pairs=300", "data.rows.val_pairs=20", "trainer.max_steps=1"]
    result = run(
        tmp_path, "sweep=beta", "loss.beta=0.1,0.7", "trainer.accelerator=cpu", *small,
        "+suggested.note=${oc.env:HF_TOKEN}", HF_TOKEN="SENTINEL",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    (sweep,) = (tmp_path / "outputs" / "reviews-dpo").iterdir()
    for job, beta in (("0_beta-0.1", "0.1"), ("1_beta-0.7", "0.7")):
        assert f"beta: {beta}" in (sweep / job / "export" / "README.md").read_text()
        assert len(list((sweep / job / "wandb").glob("offline-run-*"))) == 1
        for file in ("command.txt", "config.yaml", "export/README.md"):
            assert "HF_TOKEN" in (sweep / job / file).read_text()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"SENTINEL" in file.read_bytes()]


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH sample is not here")
def test_invalid_rows_of_real_data_stop_the_run_when_they_should(tmp_path, model_folder):
    result = run(
        tmp_path,
        "model=llama",
        "data=hh",
        f"model.name={model_folder}",
        f"data.path={HH_FILE}",
        "data.on_invalid=error",
    )
    assert result.returncode == 1
    assert (
        "6 of 1800 rows are invalid (4: an answer is empty; 2: the two dialogues have different prompts)"
        in result.stderr + result.stdout
    )
    assert "hh-harmless-1800.jsonl.gz:87" in result.stderr + result.stdout
