import os
import subprocess
import sys
import time

import pytest
from hydra.errors import HydraException

from lightning_dpo.command_line import explain
from lightning_dpo.errors import UserError
from tests.conftest import HH_FILE


def run(folder, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lightning_dpo.train", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False
    )


MISTAKES = {
    "loss.bta=1": "loss.bta is no key of the config; did you mean beta?",
    "+loss.bta=1": "loss.bta: lightning_dpo.losses.DPO takes no 'bta'; did you mean beta?",
    "model=lama": "model=lama: there is no such option; did you mean llama?; there are gpt2, llama",
    "loss.beta=abc": "loss.beta=abc: Input should be a valid number",
    "loss.beta=-1": "loss: beta must be a positive number, got -1",
    "+trainer.max_epoch=1": "trainer.max_epoch: lightning.Trainer takes no 'max_epoch'; did you mean max_epochs?",
    "loss._target_=torch.hub.load": "loss._target_=torch.hub.load is not allowed",
    "+x.api_key=SENTINEL": "x.api_key: Hydra would write this secret into the run's folder",
    "run_name=../up": "run_name=../up: use letters, digits",
    "ckpt_path=last": "ckpt_path=last: outputs/reviews-dpo has no unfinished run",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_without_a_traceback(tmp_path, mistake):
    result = run(tmp_path, mistake)
    assert result.returncode == 1
    (line,) = (result.stdout + result.stderr).strip().splitlines()
    assert MISTAKES[mistake] in line
    assert not list(tmp_path.rglob("metrics.csv"))
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"SENTINEL" in file.read_bytes()]


def test_a_traceback_for_those_who_ask(tmp_path):
    assert "Traceback" in run(tmp_path, "loss.beta=-1", HYDRA_FULL_ERROR="1").stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_imports_nothing_heavy(tmp_path, arguments):
    """The time is in the README's figures; what it is made of is what a test can hold still."""
    heavy = ("torch", "lightning.pytorch", "transformers", "wandb", "datasets", "matplotlib")
    code = (
        f"import sys; sys.argv[1:] = {arguments}; from lightning_dpo.train import main; main(); "
        f"sys.exit(any(name in sys.modules for name in {heavy}))"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "loss" in result.stdout
    print(f"{' '.join(arguments)}: {time.perf_counter() - start:.2f} s")


def test_a_cause_deep_down_is_the_one_that_is_told():
    error = HydraException("wrapping")
    error.__cause__ = UserError("the sentence")
    assert explain(error, []) == "the sentence"


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
    assert "6 of 1800 rows are invalid (4 empty_answer, 2 different_prompts)" in result.stderr + result.stdout
    assert "hh-harmless-1800.jsonl.gz:87" in result.stderr + result.stdout
