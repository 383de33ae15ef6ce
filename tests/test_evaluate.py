"""Evaluation gives what training gave, and says why when it says nothing."""

import csv
import json

import pytest

from lightning_dpo import UserError
from tests.support.compose import evaluated


@pytest.mark.parametrize("trained", ["none", "lora"], indirect=True)
def test_an_export_gives_the_validation_numbers_of_its_training(tmp_path, trained):
    """Without being told of the model it came from, or of β; and every row by itself sums up to them."""
    run, shared = trained
    found = evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}")
    expected = json.loads((run / "metrics.json").read_text())
    names = [name for name in expected if name.startswith("val/")]
    assert "val/kl" in names
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    rows = list(csv.DictReader((tmp_path / "new" / "pairs.csv").open(newline="")))
    margins = [float(row["chosen_reward"]) - float(row["rejected_reward"]) for row in rows]
    assert sum(margins) / len(margins) == pytest.approx(expected["val/rewards/margins"], abs=1e-6)
    assert all(row["where"].startswith("hh.jsonl:") for row in rows)
    assert (tmp_path / "new" / "calibration.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("trained", ["none", "lora"], indirect=True)
def test_a_checkpoint_gives_them_as_well(tmp_path, trained, model_folder):
    run, shared = trained
    adapter = "lora" if (run / "export" / "adapter_model.safetensors").exists() else "none"
    options = [f"model.name={model_folder}", "loss.beta=0.3", f"adapter={adapter}", "samples=null"]
    options.append(f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}")
    found = evaluated(tmp_path / "new", *shared, *options)
    expected = json.loads((run / "metrics.json").read_text())
    assert found["val/rewards/margins"] == pytest.approx(expected["val/rewards/margins"], abs=1e-6)
    assert "val/kl" not in found
    with pytest.raises(UserError, match=r"ckpt_path: it was trained with DPO\(beta=0.3"):
        evaluated(
            tmp_path / "new", *shared, *options, "loss.beta=0.1", f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
        )


def test_the_base_model_has_nothing_but_ties_and_is_reported_with_the_reason(tmp_path, trained, model_folder, caplog):
    _, shared = trained
    found = evaluated(tmp_path / "new", *shared, f"model.name={model_folder}")
    everything = found["accuracy"]
    assert everything["value"] == 0.5
    assert everything["ties"] == everything["pairs"]
    assert "All pairs are ties, so the accuracy is one half: policy and reference are the same model" in caplog.text


def test_without_a_reference_rewards_are_beta_times_the_log_probs(tmp_path, trained, model_folder):
    _, shared = trained
    found = evaluated(tmp_path / "new", *shared, f"model.name={model_folder}", "reference.name=none", "loss.beta=0.5")
    assert found["val/rewards/chosen"] == pytest.approx(0.5 * found["val/logps/chosen"])
    assert found["val/rewards/ties"] == 0
    assert "val/kl" not in found
    assert "val/samples/length" in found


def test_the_second_evaluation_reads_the_reference_from_its_cache(tmp_path, trained, caplog):
    run, shared = trained
    options = (*shared, f"model.name={run / 'export'}", f"reference.cache_dir={tmp_path / 'cache'}", "samples=null")
    caplog.set_level("INFO")
    first = evaluated(tmp_path / "first", *options)
    assert "Computing the log-probs of" in caplog.text
    caplog.clear()
    assert evaluated(tmp_path / "second", *options) == first
    assert "Computing the log-probs of" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("reference.cache=on",), "reference.cache=on: Input should be 'auto' or 'off'"),
        (("reference.cache=off", "reference.cache_dir=x"), "cache_dir has no effect with cache=off"),
        (("+reference.recheck=0",), "reference.recheck is not an option of evaluate: name, cache, cache_dir"),
        (("reference.cache=off", "reference.name=none"), "reference.cache=off has no effect: reference.name=none"),
        (
            ("reference.cache_dir=x", "score=rows.jsonl"),
            "reference.cache_dir=x has no effect: the log-probs",
        ),
    ],
)
def test_options_of_the_cache_are_checked(tmp_path, trained, options, message):
    run, shared = trained
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", *options)


def test_another_reference_by_name(tmp_path, trained, model_folder):
    run, shared = trained
    found = evaluated(
        tmp_path / "new", *shared, f"model.name={model_folder}", f"reference.name={run / 'export'}", "loss.beta=0.3"
    )
    expected = json.loads((run / "metrics.json").read_text())
    assert found["val/rewards/margins"] == pytest.approx(-expected["val/rewards/margins"], abs=1e-5)


def test_a_loss_without_rewards_cannot_be_evaluated(tmp_path, trained):
    """That of an SFT export is put aside; one on the command line is an error."""
    run, shared = trained
    path = run / "export" / "lightning_dpo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": {"_target_": "lightning_dpo.losses.SFT"}}))
    found = evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "samples=null")
    assert found["val/rewards/ties"] < 1
    with pytest.raises(UserError, match=r"loss: SFT\(\) has no rewards to evaluate"):
        evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "loss=sft", "samples=null")


def test_what_a_downloaded_record_names_is_checked(tmp_path, trained):
    run, shared = trained
    path = run / "export" / "lightning_dpo.json"
    record = json.loads(path.read_text())
    changes = {
        r"loss._target_=os.system is not allowed": record | {"loss": {"_target_": "os.system"}},
        r"is not the record of an export": record | {"loss": record["loss"] | {"beta": "${oc.env:HOME}"}},
        r"is not the record of an export: export": record | {"loss": [1]},
        r"has format 1, and this version of lightning_dpo reads format 2": record | {"format": 1},
        r"the weights of .* are not those that the training started from": record
        | {"trained_with": record["trained_with"] | {"weights": {"starting weights (sha256)": "0"}}},
    }
    for message, changed in changes.items():
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}")


def test_a_model_made_in_code_has_no_name_to_compare_with(tmp_path, trained):
    run, shared = trained
    path = run / "export" / "lightning_dpo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model": None}))
    with pytest.raises(UserError, match=r"reference.name: .* was trained from a model that was created in code"):
        evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}")


def test_a_held_out_file_is_judged_whole_and_what_trains_is_not_read(tmp_path, trained, hh_file):
    run, shared = trained
    apart = [value for value in shared if not value.startswith(("data.path", "data.val_fraction"))]
    found = evaluated(
        tmp_path / "new", *apart, f"model.name={run / 'export'}", f"data.val_path={hh_file}", "samples=null"
    )
    assert found["accuracy"]["pairs"] == 24


def test_pairs_that_may_have_trained_the_model_are_reported(tmp_path, trained, caplog):
    run, shared = trained
    evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "samples=null")
    assert "may have trained" not in caplog.text
    evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "samples=null", "seed=1")
    assert "The model may have been trained on some of these pairs: data.seed was 0 and is 1" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=lora"], r"adapter has no effect without ckpt_path"),
        (["ckpt_path=nowhere.ckpt"], r"nowhere.ckpt does not exist"),
        (["ckpt_path={file}"], r"hh.jsonl is truncated, or is not a checkpoint"),
        (
            ["ckpt_path={checkpoint}", "model.pretrained=false", "model.config={small}"],
            "has another model or",
        ),
        (["trainer.limit_val_batches=0"], r"trainer.limit_val_batches=0: no pair is evaluated"),
        (["score=nowhere.jsonl"], r"score=nowhere.jsonl: the file does not exist"),
        (["score="], r"score=: the file does not exist"),
        (["+trainer.devices=2"], r"trainer.devices is derived from the rest of the config"),
        (["model.name=no such model"], r"model.name=no such model is neither a folder"),
        (["data.path=nowhere.jsonl"], r"nowhere.jsonl: the file does not exist"),
    ],
)
def test_user_errors_are_reported(tmp_path, trained, model_folder, hh_file, overrides, message):
    run, shared = trained
    small_model = "{model_type: llama, vocab_size: 300, hidden_size: 64, num_hidden_layers: 1, intermediate_size: 8}"
    values = {"file": hh_file, "checkpoint": run / "checkpoints" / "last.ckpt", "small": small_model}
    given = [override.format(**values) if "{" in override else override for override in overrides]
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path / "new", *shared, f"model.name={model_folder}", "loss.beta=0.3", "samples=null", *given)


def test_the_flag_is_the_key(monkeypatch):
    from lightning_dpo import evaluate as module

    for arguments, expected in (
        (["model=llama", "--score", "a b.jsonl"], ["model=llama", "score=a b.jsonl"]),
        (["--score=f.jsonl", "--help"], ["--help", "score=f.jsonl"]),
        (["--score"], ["score="]),
        (["-m", "seed=1,2"], ["-m", "seed=1,2"]),
    ):
        monkeypatch.setattr(module.sys, "argv", ["evaluate", *arguments])
        monkeypatch.setattr(module, "run", lambda *_: None)
        module.main()
        assert module.sys.argv[1:] == expected
