"""Tiny models, a tokenizer and pairs, all made in code; no test reaches a network."""

import atexit
import os
import shutil
import tempfile

CACHE = tempfile.mkdtemp(prefix="lightning_dpo_tests_")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# Before anything imports datasets or wandb.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_CACHE": CACHE,
    "HF_HOME": CACHE,
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
# Tests are of the CPU, and quick there; those that need CUDA are run where it is asked for.
if "LIGHTNING_DPO_TEST_CUDA" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.pop("WANDB_API_KEY", None)

import json
from pathlib import Path

import hypothesis
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.models import VOCABULARY, make_llama

# A deadline measures the machine, and examples are the same in every run.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return make_llama()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text encodes, words merge, no beginning of sequence, one special token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        ["the film was good and the cake was better", "where is the answer, Assistant?"] * 9, trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")


@pytest.fixture
def model_folder(tmp_path: Path, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder that `from_pretrained` opens."""
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """Twenty-four pairs over twenty-four prompts, answers of unequal lengths."""
    rows = [
        {"prompt": f"Question {n}:", "chosen": " yes" * (n % 5 + 1), "rejected": f" no {n}" * (n % 3 + 1)}
        for n in range(24)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def hh_file(tmp_path: Path) -> Path:
    """Twenty-four pairs in HH's format."""
    start = "\n\nHuman: Number {}?\n\nAssistant:"
    rows = [
        {"chosen": start.format(n) + " yes" * (n % 4 + 1), "rejected": start.format(n) + f" no {n}"} for n in range(24)
    ]
    path = tmp_path / "hh.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def trained(tmp_path: Path, model_folder: Path, hh_file: Path, request) -> tuple[Path, list[str]]:
    """The folder of a short run, with the adapter asked for, and the overrides that an evaluation shares with it."""
    from lightning_dpo.train import train
    from tests.support.compose import composed

    adapter = getattr(request, "param", "none")
    shared = [
        "model=llama", "data=hh", f"data.path={hh_file}", "data.val_fraction=0.4", "data.pairs_per_step=4",
        "data.batch_size=2", "trainer.accelerator=cpu",
    ]  # fmt: skip
    more = [
        "optimizer.lr=1e-3",
        "loss.beta=0.3",
        "logger=csv",
        f"adapter={adapter}",
        f"model.name={model_folder}",
        "callbacks.samples.max_new_tokens=4",
        "callbacks.samples.answers=3",
    ]
    (tmp_path / "run").mkdir()
    train(composed(tmp_path / "run", *shared, *more))
    return tmp_path / "run", shared
