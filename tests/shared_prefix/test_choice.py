import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.shared_prefix import choice
from tests.support.models import SMALL, make_llama
from tests.support.training import trainer_for


@pytest.fixture
def tried(monkeypatch) -> list[int]:
    """Lengths of the streams that layouts are compared on."""
    lengths, compare = [], choice.share_prefixes

    def recording(models, padded, shared, precision):
        lengths.append(shared.input_ids.shape[1])
        return compare(models, padded, shared, precision)

    monkeypatch.setattr(choice, "share_prefixes", recording)
    return lengths


def validate(folder, pairs, tokenizer, policy) -> PreferenceDataModule:
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, val_fraction=0.9, layout="auto")
    trainer_for(folder).validate(DPOModule(policy), data, verbose=False)
    return data


def test_a_comparison_is_remembered_for_an_architecture_and_its_config(tmp_path, pairs_file, tokenizer, tried):
    first = validate(tmp_path, pairs_file, tokenizer, make_llama(intermediate_size=40))
    second = validate(tmp_path, pairs_file, tokenizer, make_llama(seed=1, intermediate_size=40))
    assert len(tried) == 1
    assert first.layout_name == second.layout_name == "shared"
    validate(tmp_path, pairs_file, tokenizer, make_llama(intermediate_size=44))
    assert len(tried) == 2


def test_an_architecture_that_cannot_share_is_tried_again(tmp_path, pairs_file, tokenizer, tried):
    for _ in range(2):
        policy = make_llama(intermediate_size=52, attn_implementation="eager")
        assert validate(tmp_path, pairs_file, tokenizer, policy).layout_name == "padded"
    assert len(tried) == 2


def test_only_a_sliding_window_needs_long_texts(tmp_path, tokenizer, tried):
    path = tmp_path / "long.jsonl"
    row = '{"prompt": "%s", "chosen": "%s yes", "rejected": "%s no"}\n'
    path.write_text("".join(row % (f"{n} " + "word " * 90, " so" * 60, " so" * 60) for n in range(6)))
    for window, whole in ((None, False), (8, True)):
        torch.manual_seed(0)
        policy = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window, eos_token_id=0))
        validate(tmp_path, path, tokenizer, policy)
        assert (tried[-1] > 2 * (64 + 2 * 16)) == whole


def test_the_shortened_answers_still_differ():
    pair = TokenizedPair(0, list(range(500)), [7] * 99 + [1, 2], [7] * 99 + [3])
    longer = TokenizedPair(1, [1], [7] * 40, [7] * 99)
    found = choice.shortened(MicroBatch([pair, longer], [True, True], 2, 1)).pairs
    assert [len(one.prompt_ids) for one in found] == [64, 1]
    assert all(0 < len(ids) <= 16 for one in found for ids in (one.chosen_ids, one.rejected_ids))
    assert all(one.chosen_ids != one.rejected_ids for one in found)
    assert found[0].prompt_ids[-1] == 499
