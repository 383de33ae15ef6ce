import json
import math

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks.samples import Samples, device_share, in_order
from lightning_dpo.data.tokens.prompts import sample_prompts
from lightning_dpo.losses import DPO, SFT
from lightning_dpo.models import LoRA
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


def run(folder, pairs_file, tokenizer, loss=None, adapter=None, epochs=2, **options) -> lightning.Trainer:
    settings = {"answers": 6, "per_prompt": 2, "max_new_tokens": 5, "shown": 1, "batch_size": 4}
    callback = Samples(str(folder), **settings | options)
    sft = isinstance(loss, SFT)
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=6, val_fraction=0.2, chosen_only=sft)
    trainer = trainer_for(folder, callbacks=[callback], max_epochs=epochs, logger=CSVLogger(folder, "", ""))
    trainer.fit(DPOModule(make_llama(), loss or DPO(0.3), adapter=adapter, optimizer=sgd), data)
    return trainer


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").open()]


def test_the_same_prompts_and_the_same_answers_of_the_reference_after_every_validation(
    tmp_path, pairs_file, tokenizer, capsys
):
    trainer = run(tmp_path, pairs_file, tokenizer)
    rows = rows_of(tmp_path)
    first, second = ([row for row in rows if row["step"] == step] for step in (4, 8))
    assert len(first) == len(second) == 6
    for name in ("prompt", "reference"):
        assert [row[name] for row in first] == [row[name] for row in second]
    assert [row["policy"] for row in first] != [row["reference"] for row in first]
    metrics = trainer.callback_metrics
    assert metrics["val/kl"] > 0
    assert 0 < metrics["val/kl_stderr"] < metrics["val/kl"] * 3
    for name in ("length", "ended", "repetition"):
        assert math.isfinite(float(metrics[f"val/samples/{name}"]))
        assert math.isfinite(float(metrics[f"val/samples/reference/{name}"]))
    assert 1 <= float(metrics["val/samples/length"]) <= 5
    assert "Answers at step" in capsys.readouterr().out


@pytest.mark.parametrize("adapter", [None, LoRA(r=4, dropout=0.5)], ids=["all weights", "LoRA with dropout"])
def test_the_log_ratio_of_each_token_of_the_answers(tmp_path, pairs_file, tokenizer, adapter):
    policy = run(tmp_path, pairs_file, tokenizer, adapter=adapter).lightning_module.policy.eval()
    lines = [json.loads(line) for line in (tmp_path / "log_ratios.jsonl").open()]
    last = rows_of(tmp_path)[-len(lines) :]
    assert len(lines) == 6
    for line, row in zip(lines, last, strict=True):
        prompt = tokenizer(row["prompt"]).input_ids
        for side in ("chosen", "rejected", "policy", "reference"):
            assert "".join(text for text, _ in line[side]) == row[side]
            ids = tokenizer(row["prompt"] + row[side]).input_ids
            if side in ("chosen", "rejected"):  # sampled tokens need not be those that encode their text
                expected = logps(policy, ids)[len(prompt) - 1 :] - logps(make_llama(), ids)[len(prompt) - 1 :]
                assert sum(value for _, value in line[side]) == pytest.approx(float(expected.sum()), abs=2e-3)
                assert expected.abs().max() > 1e-3


def logps(model, ids) -> torch.Tensor:
    """log p of each token but the first, from a plain forward pass."""
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits.log_softmax(-1)[0, :-1]
    return logps.gather(1, torch.tensor(ids)[1:, None])[:, 0]


def test_a_step_that_is_done_again_replaces_its_rows(tmp_path, pairs_file, tokenizer):
    """A run that resumes from an earlier step writes its rows again; those of steps before it stay."""
    (tmp_path / "samples.jsonl").write_text('{"step": 1, "policy": "kept"}\n{"step": 99, "policy": "done again"}\n')
    run(tmp_path, pairs_file, tokenizer, epochs=1)
    assert [row["step"] for row in rows_of(tmp_path)] == [1] + [4] * 6


def test_greedy_answers_are_not_samples(tmp_path, pairs_file, tokenizer):
    metrics = run(tmp_path, pairs_file, tokenizer, epochs=1, greedy=True).callback_metrics
    assert "val/samples/length" in metrics
    assert "val/kl" not in metrics


def test_without_a_reference_there_is_the_policy_only(tmp_path, pairs_file, tokenizer):
    metrics = run(tmp_path, pairs_file, tokenizer, loss=SFT(), epochs=1).callback_metrics
    assert "val/samples/length" in metrics
    assert not [name for name in metrics if "kl" in name or "reference" in name]
    assert "reference" not in rows_of(tmp_path)[0]


def test_sampling_changes_nothing_that_is_trained(tmp_path, pairs_file, tokenizer):
    weights = []
    for folder, answers in (("few", 2), ("many", 9)):
        (tmp_path / folder).mkdir()
        trainer = run(tmp_path / folder, pairs_file, tokenizer, answers=answers)
        weights.append(torch.nn.utils.parameters_to_vector(trainer.lightning_module.policy.parameters()))
    assert torch.equal(*weights)


def test_answers_are_as_long_as_there_is_room_for(tmp_path, pairs_file, tokenizer, caplog):
    """Known before training, not at the first validation."""
    with caplog.at_level("INFO"):
        trainer = run(tmp_path, pairs_file, tokenizer, epochs=1, max_new_tokens=2000)
    (callback,) = (one for one in trainer.callbacks if isinstance(one, Samples))
    assert callback.max_new_tokens == 512
    assert "Sampled answers have at most 512 tokens, because of data.max_length" in caplog.text


@pytest.mark.parametrize(("length", "wanted", "given"), [(100, 20, 20), (100, 90, 50), (40, 90, 20)])
def test_prompts_and_answers_fit(pairs_file, tokenizer, length, wanted, given):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, val_fraction=0.9, max_length=length)
    data.setup()
    prompts, tokens = sample_prompts(data.val_pairs, 7, 7, data.max_length, wanted)
    assert (len(prompts), tokens) == (7, given)
    assert all(len(prompt) + tokens <= length for prompt in prompts)


@pytest.mark.parametrize("name", ["answers", "per_prompt", "max_new_tokens", "batch_size"])
def test_values(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Samples(str(tmp_path), **{name: 0})


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_devices_share_the_prompts_and_what_fills_up_is_not_counted(devices):
    """Every device answers equally many, for they must wait for each other; together they answer each prompt once."""
    prompts = [[n] for n in range(5)]
    shares = [device_share(prompts, rank, devices) for rank in range(devices)]
    assert len({len(share) for share in shares}) == 1
    assert in_order(torch.tensor(shares), len(prompts)).tolist() == prompts


def test_prompts_come_from_our_data_module(tmp_path):
    trainer = trainer_for(tmp_path, callbacks=[Samples(str(tmp_path))])
    with pytest.raises(UserError, match="Samples needs a PreferenceDataModule: pass one"):
        trainer.fit(DPOModule(make_llama()), [])
