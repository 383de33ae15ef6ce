"""Two processes on the CPU: data parallel, plain and sharded, is one process with accumulation."""

import numpy as np
import pytest

from lightning_dpo.models.reference_factories import Frozen
from tests.support.ranks import on_ranks
from tests.support.train_on_ranks import adamw, evaluate, fit, gentle_sgd, sharded_layers, without_layers


@pytest.fixture
def run(tmp_path, pairs_file, tokenizer):
    def on(devices: int, **options) -> list[dict]:
        return on_ranks(devices, _fit, tmp_path, pairs_file, tokenizer, devices, options)

    return on


def _fit(folder, pairs, tokenizer, devices, options):
    return fit(folder, pairs, tokenizer, devices=devices, **options)


def largest_difference(one: dict, other: dict) -> float:
    assert one["weights"].keys() == other["weights"].keys()
    return max(float(np.abs(one["weights"][name] - other["weights"][name]).max()) for name in one["weights"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_two_ranks_are_one_process_with_accumulation_2_bit_for_bit(run, strategy, tied, adapter):
    (alone,) = run(1, accumulate=2, tied=tied, adapter=adapter)
    ranks = run(2, strategy=strategy, tied=tied, adapter=adapter)
    assert alone["steps"] == ranks[0]["steps"] == 3
    assert alone["shared"]
    assert ranks[0]["shared"]
    assert all(largest_difference(alone, rank) == 0 for rank in ranks)
    # Micro-batch for micro-batch the single run's, each on one rank.
    both = sorted(rows for rank in ranks for rows in rank["rows"])
    assert both == sorted(alone["rows"])
    assert len({row for rows in both for row in rows}) == 12


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("adapter", [False, True])
def test_prompts_that_are_shared_change_nothing_on_two_ranks(run, strategy, adapter):
    options = {"strategy": strategy, "adapter": adapter, "optimizer": gentle_sgd}
    padded, shared = (run(2, layout=layout, **options)[0] for layout in ("padded", "shared"))
    assert (padded["shared"], shared["shared"]) == (False, True)
    assert largest_difference(padded, shared) < 1e-5
    assert shared["metrics"]["train/loss"] == pytest.approx(padded["metrics"]["train/loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_model_that_cannot_share_prompts_is_trained_and_resumed_without_on_two_ranks(run, tmp_path, strategy):
    """Its forward pass over the stream is broken off within a layer, whose weights were gathered for it."""
    path, options = str(tmp_path / "two.ckpt"), {"architecture": "stablelm", "optimizer": adamw}
    (alone,) = run(1, accumulate=2, **options)
    ranks = run(2, strategy=strategy, save_after_two=path, **options)
    resumed = run(2, strategy=strategy, resume=path, **options)
    assert not any(one["shared"] for one in (alone, *ranks, *resumed))
    assert all(largest_difference(alone, rank) < 1e-5 for rank in ranks)
    assert all(largest_difference(*both) == 0 for both in zip(ranks, resumed, strict=True))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_with_accumulation_2_are_one_with_4(run, strategy):
    (alone,) = run(1, accumulate=4)
    ranks = run(2, strategy=strategy, accumulate=2)
    assert all(largest_difference(alone, rank) < 1e-6 for rank in ranks)
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    for name, value in alone["metrics"].items():
        assert ranks[0]["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.5},
        {"checkpointing": True},
        {"checkpointing": True, "adapter": True},
        {"adapter": True, "reference": Frozen()},
    ],
    ids=str,
)
def test_what_runs_on_one_device_gives_the_same_when_sharded(run, options):
    (alone,) = run(1, accumulate=2, **options)
    ranks = run(2, strategy="fsdp", **options)
    assert all(largest_difference(alone, rank) < 1e-6 for rank in ranks)
    if "gradient_clip_val" in options:
        (unclipped,) = run(1, accumulate=2)
        assert largest_difference(alone, unclipped) > 1e-3


def test_mixed_precision_gathers_in_bf16_and_keeps_fp32_weights(run):
    """Sharded or not: the same but for the rounding of bf16."""
    (alone,) = run(1, accumulate=2, precision="bf16-mixed")
    ranks = run(2, strategy="fsdp", precision="bf16-mixed")
    assert all(value.dtype == np.float32 for value in ranks[0]["weights"].values())
    assert 0 < largest_difference(alone, ranks[0]) < 0.05


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_five_pairs_are_evaluated_on_two_ranks_as_on_one(tmp_path, pairs_file, tokenizer, strategy):
    (alone,) = on_ranks(1, evaluate, tmp_path, pairs_file, tokenizer, "auto", 1)
    ranks = on_ranks(2, evaluate, tmp_path, pairs_file, tokenizer, strategy, 2)
    assert ranks == [alone, alone]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_resumed_run_is_the_run_that_was_not_stopped(run, tmp_path, strategy, adapter):
    options = {"strategy": strategy, "adapter": adapter, "max_steps": 4, "optimizer": adamw}
    straight = run(2, save_after_two=str(tmp_path / "two.ckpt"), **options)
    resumed = run(2, resume=str(tmp_path / "two.ckpt"), **options)
    assert all(largest_difference(one, other) == 0 for one, other in zip(straight, resumed, strict=True))
    assert [rank["rows"] for rank in resumed] == [rank["rows"][2:] for rank in straight]


def test_a_checkpoint_of_two_ranks_is_not_gone_on_with_on_one(run, tmp_path):
    path = str(tmp_path / "two.ckpt")
    run(2, strategy="ddp", save_after_two=path)
    with pytest.raises(AssertionError, match="the number of devices 2 instead of 1: restore the old values, or start"):
        run(1, accumulate=2, resume=path)


def test_fit_validate_fit_when_sharded(run):
    ranks = run(2, strategy="fsdp", validate_between=True, max_steps=2)
    assert ranks[0]["steps"] == 4


def test_ranks_with_the_same_pairs_stop(run):
    with pytest.raises(AssertionError, match=r"devices 0 and 1 start with the same pair \(row \d+\)"):
        run(2, strategy="lightning's default")


def test_a_loss_that_is_infinite_on_one_rank_stops_both_and_names_the_pair(run):
    _, (row, *_), *_ = run(2, strategy="ddp")[1]["rows"]
    with pytest.raises(AssertionError) as stopped:
        run(2, strategy="ddp", broken_row=row)
    assert str(stopped.value).count("the loss of pairs.jsonl:") == 2
    assert str(stopped.value).count("is not finite, so the update was not applied") == 2


SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def test_one_rule_shards_every_architecture():
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    configs = [
        {"model_type": name} | sizes for name in ("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "olmo2")
    ]
    configs += [
        {"model_type": "gpt_neox"} | SIZES,
        {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4},
    ]
    for name, layers, moved in on_ranks(2, sharded_layers, configs)[0]:
        assert (name, layers) == (name, 3)
        assert moved < 1e-5, name


def test_a_model_without_decoder_layers_is_reported():
    assert without_layers() == "strategy=fsdp shards decoder layers of transformers, and Linear has none: use ddp"
