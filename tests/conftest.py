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
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lightning_dpo.data.pairs import MicroBatch, TokenizedPair
from lightning_dpo.layouts import PaddedLayout, SharedLayout

# A deadline measures the machine, and examples are the same in every run.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

HH_FILE = Path(__file__).parents[2] / "shared" / "data" / "hh-harmless-1800.jsonl.gz"
VOCABULARY = 300


def make_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    """Two layers with weights large enough that mistakes show."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings | changes))


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
    from tests.compose import composed

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


def random_pairs(count: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[TokenizedPair]:
    """Pairs of random tokens and unequal lengths; the offset is not 0, so that ignoring it shows."""
    generator = torch.Generator().manual_seed(seed)

    def ids(longest: int) -> list[int]:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return torch.randint(1, vocabulary, (length,), generator=generator).tolist()

    return [TokenizedPair(row, ids(9), ids(6), ids(7)) for row in range(count)]


def padded_batch(pairs: list[TokenizedPair], **options):
    """All of `pairs` as one step of one batch."""
    tokens = sum(len(pair.chosen_ids) for pair in pairs)
    return PaddedLayout(pad_token_id=0, **options)(MicroBatch(pairs, [True] * len(pairs), len(pairs), tokens))


def shared_batch(pairs: list[TokenizedPair], **options):
    """The same as one stream."""
    tokens = sum(len(pair.chosen_ids) for pair in pairs)
    return SharedLayout(**options)(MicroBatch(pairs, [True] * len(pairs), len(pairs), tokens))


def pairs_of_shared_prompts() -> list[TokenizedPair]:
    """Six pairs over three prompts of 9 to 11 tokens; every second has a completion of the pair before it."""
    generator = torch.Generator().manual_seed(1)
    pairs = []
    for row in range(3):
        sizes = (9 + row, 4 + row, 7 - row, 2)
        prompt, good, middling, bad = (torch.randint(1, VOCABULARY, (n,), generator=generator).tolist() for n in sizes)
        pairs += [TokenizedPair(2 * row, prompt, good, middling), TokenizedPair(2 * row + 1, prompt, middling, bad)]
    return pairs
