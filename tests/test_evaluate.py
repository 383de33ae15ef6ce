"""Evaluation gives what training gave, and says why when it says nothing."""

import csv
import json

import pytest
import torch

from lightning_dpo import UserError
from lightning_dpo.evaluate import evaluate
from lightning_dpo.train import train
from tests.chat import assistant, chat_tokenizer, user
from tests.compose import composed
from tests.test_train import hh_file, small  # noqa: F401


@pytest.fixture
def trained(tmp_path, model_folder, hh_file, request):  # noqa: F811
    """A run's folder, and the overrides that it shares with an evaluation."""
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


def evaluated(folder, *overrides) -> dict:
    folder.mkdir(exist_ok=True)
    samples = ["samples.max_new_tokens=4", "samples.answers=3"]
    evaluate(composed(folder, *samples, *overrides, config_name="evaluate"))
    return json.loads((folder / "metrics.json").read_text())


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


def test_the_base_model_has_nothing_but_ties_and_is_told_why(tmp_path, trained, model_folder, caplog):
    _, shared = trained
    found = evaluated(tmp_path / "new", *shared, f"model.name={model_folder}")
    everything = found["accuracy"]["all pairs"]
    assert everything["value"] == 0.5
    assert everything["ties"] == everything["pairs"]
    assert "Every pair is a tie, and accuracy one half: policy and reference are one model" in caplog.text


def test_without_a_reference_rewards_are_beta_times_the_log_probs(tmp_path, trained, model_folder):
    _, shared = trained
    found = evaluated(tmp_path / "new", *shared, f"model.name={model_folder}", "reference.name=none", "loss.beta=0.5")
    assert found["val/rewards/chosen"] == pytest.approx(0.5 * found["val/logps/chosen"])
    assert found["val/rewards/ties"] == 0
    assert "val/kl" not in found
    assert "val/samples/length" in found


def test_another_reference_by_name(tmp_path, trained, model_folder):
    run, shared = trained
    found = evaluated(
        tmp_path / "new", *shared, f"model.name={model_folder}", f"reference.name={run / 'export'}", "loss.beta=0.3"
    )
    expected = json.loads((run / "metrics.json").read_text())
    assert found["val/rewards/margins"] == pytest.approx(-expected["val/rewards/margins"], abs=1e-5)


def test_a_loss_without_rewards_is_none_to_judge_by(tmp_path, trained):
    """That of an SFT export is put aside; one on the command line is an error."""
    run, shared = trained
    path = run / "export" / "lightning_dpo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": {"_target_": "lightning_dpo.losses.SFT"}}))
    found = evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "samples=null")
    assert found["val/rewards/ties"] < 1
    with pytest.raises(UserError, match=r"loss: SFT\(\) gives no rewards to judge by"):
        evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "loss=sft", "samples=null")


def test_what_a_downloaded_record_names_is_checked(tmp_path, trained):
    run, shared = trained
    path = run / "export" / "lightning_dpo.json"
    path.write_text(json.dumps({"base_model": "x", "loss": {"_target_": "os.system"}}))
    with pytest.raises(UserError, match=r"loss._target_=os.system is not allowed"):
        evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}")


def test_a_model_made_in_code_has_no_name_to_compare_with(tmp_path, trained):
    run, shared = trained
    (run / "export" / "lightning_dpo.json").write_text(
        json.dumps({"base_model": None, "loss": {"_target_": "lightning_dpo.losses.DPO"}})
    )
    with pytest.raises(UserError, match=r"reference.name: .* was trained from a model that was made in code"):
        evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}")


def test_rewards_for_the_answers_of_a_file(tmp_path, trained):
    """Of pairs, those of the evaluation; of several answers, one each; of messages, through the template."""
    run, shared = trained
    shared = [*shared, f"model.name={run / 'export'}", "data.batch_size=3"]
    evaluated(tmp_path / "new", *shared)
    pairs = list(csv.DictReader((tmp_path / "new" / "pairs.csv").open(newline="")))
    hh = [json.loads(line) for line in (run.parent / "hh.jsonl").open()]
    mark = "\n\nAssistant:"
    rows = []
    for pair in pairs:
        row = hh[int(pair["where"].split(":")[1]) - 1]
        prompt = row["chosen"].rpartition(mark)[0] + mark
        rows.append(
            {"prompt": prompt, "answers": [row[side][len(prompt) :] for side in ("chosen", "rejected")], "id": 7}
        )
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(composed(tmp_path / "new", *shared, f"score={path}", config_name="evaluate"))
    scored = [json.loads(line) for line in (tmp_path / "new" / "scores.jsonl").open()]
    assert [row["id"] for row in scored] == [7] * len(pairs)
    for row, pair in zip(scored, pairs, strict=True):
        expected = [float(pair["chosen_reward"]), float(pair["rejected_reward"])]
        assert row["rewards"] == pytest.approx(expected, abs=1e-5)


def test_messages_are_scored_and_what_cannot_be_is_named(tmp_path, tokenizer):
    from tests.conftest import make_llama

    chat = chat_tokenizer(tokenizer)
    folder = tmp_path / "chat"
    make_llama(vocab_size=len(chat)).save_pretrained(folder)
    chat.save_pretrained(folder)
    path = tmp_path / "answers.jsonl"
    options = [
        "model=llama",
        "data=jsonl",
        "data.path=x",
        f"model.name={folder}",
        "reference.name=none",
        "trainer.accelerator=cpu",
    ]

    def score(*rows, **more):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        evaluate(composed(tmp_path, *options, *more.get("overrides", ()), f"score={path}", config_name="evaluate"))
        return [json.loads(line)["rewards"] for line in (tmp_path / "scores.jsonl").open()]

    forms = [
        {"prompt": [user("Hi?")], "answer": [assistant("Hello")]},
        {"prompt": [user("Hi?")], "answer": "Hello"},
        {"prompt": "Hi?", "answer": [user("Hi?"), assistant("Hello")]},
        {"answer": [user("Hi?"), assistant("Hello")]},
        {"prompt": [{"from": "human", "value": "Hi?"}], "answers": [{"from": "gpt", "value": "Hello"}]},
    ]
    rewards = [reward for (reward,) in score(*forms)]
    assert rewards == pytest.approx([rewards[0]] * len(forms), abs=1e-6), "they are one question and one answer"
    messages = rewards[0]
    tool = {"type": "function", "function": {"name": "search"}}
    assert score(forms[0] | {"tools": [tool]})[0][0] != pytest.approx(messages, abs=1e-3)
    ids = chat.apply_chat_template([user("Hi?"), assistant("Hello")])["input_ids"]
    start = len(chat.apply_chat_template([user("Hi?")], add_generation_prompt=True)["input_ids"])
    with torch.no_grad():
        logits = make_llama(vocab_size=len(chat)).eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
    known = sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))
    assert messages == pytest.approx(0.1 * known, abs=1e-4)
    for row, message in (
        ({"prompt": "Hi?"}, r"answers.jsonl:1: a row to be scored has answers \(a list\), answer, or chosen"),
        ({"prompt": "Hi?", "answers": "No way"}, r"answers.jsonl:1: a row to be scored has answers \(a list\)"),
        ({"answer": "No"}, r"answers.jsonl:1: a field is missing \(prompt\)"),
        ({"prompt": "Hi?", "answer": 3}, r"answers.jsonl:1: a field has the wrong type"),
        ({"prompt": "Hi?", "answer": "<|im_end|> no"}, r"answers.jsonl:1: the text contains one of the tokenizer's"),
    ):
        with pytest.raises(UserError, match=message):
            score(row)
    with pytest.raises(UserError, match=r"answers.jsonl:1: \d+ tokens, more than data.max_length=5"):
        score({"prompt": "Hello?", "answer": "a long answer"}, overrides=["data.max_length=5"])


def test_a_held_out_file_is_judged_whole_and_what_trains_is_not_read(tmp_path, trained, hh_file):  # noqa: F811
    run, shared = trained
    apart = [value for value in shared if not value.startswith(("data.path", "data.val_fraction"))]
    found = evaluated(
        tmp_path / "new", *apart, f"model.name={run / 'export'}", f"data.val_path={hh_file}", "samples=null"
    )
    assert found["accuracy"]["all pairs"]["pairs"] == 24


def test_pairs_that_may_have_trained_the_model_are_told(tmp_path, trained, caplog):
    run, shared = trained
    evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "samples=null")
    assert "may have trained" not in caplog.text
    evaluated(tmp_path / "new", *shared, f"model.name={run / 'export'}", "samples=null", "seed=1")
    assert "Some of these pairs may have trained the model: data.seed was 0 and is 1" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=lora"], r"adapter has no effect without ckpt_path"),
        (["ckpt_path=nowhere.ckpt"], r"ckpt_path=nowhere.ckpt: there is no such file"),
        (["ckpt_path={file}"], r"ckpt_path=.*hh.jsonl: it is no checkpoint \("),
        (
            ["ckpt_path={checkpoint}", "model.pretrained=false", "model.config={small}"],
            "is of another model or",
        ),
        (["trainer.limit_val_batches=0"], r"trainer.limit_val_batches=0: no pair is judged"),
        (["score=nowhere.jsonl"], r"score=nowhere.jsonl: there is no such file"),
        (["score="], r"score=: there is no such file"),
        (["+trainer.devices=2"], r"trainer.devices follows from the rest of the config"),
        (["model.name=no such model"], r"model.name=no such model: is neither a folder"),
        (["data.path=nowhere.jsonl"], r"nowhere.jsonl: there is no such file"),
    ],
)
def test_mistakes_are_told(tmp_path, trained, model_folder, hh_file, overrides, message):  # noqa: F811
    run, shared = trained
    small_model = "{model_type: llama, vocab_size: 300, hidden_size: 64, num_hidden_layers: 1, intermediate_size: 8}"
    values = {"file": hh_file, "checkpoint": run / "checkpoints" / "last.ckpt", "small": small_model}
    given = [override.format(**values) if "{" in override else override for override in overrides]
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path / "new", *shared, f"model.name={model_folder}", "loss.beta=0.3", "samples=null", *given)


def test_scoring_a_model_against_itself_says_nothing(tmp_path, trained, model_folder):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "answer": " yes"}))
    with pytest.raises(UserError, match=r"every reward would be 0: policy and reference are one model"):
        evaluated(tmp_path, "model=llama", f"model.name={model_folder}", f"score={path}")


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
