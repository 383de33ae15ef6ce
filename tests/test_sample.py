import io
import json
import re
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_dpo.sample import main, prompts_of
from lightning_dpo.train import train
from tests.support.compose import composed
from tests.support.training import small

PROMPT, ANSWER = "\n\nHuman: Hi\n\nAssistant:", " Hello"


@pytest.fixture
def run(tmp_path, model_folder, hh_file, request):
    """A run with β = 0.1 on HH."""
    folder = tmp_path / "run"
    folder.mkdir()
    adapter = getattr(request, "param", "none")
    overrides = ["model=llama", "data=hh", "logger=csv", "callbacks.samples=null", f"adapter={adapter}"]
    train(composed(folder, *overrides, *small(model_folder, hh_file), "optimizer.lr=0.01"))
    return folder


def sampled(monkeypatch, capsys, *arguments: str, typed: str = "") -> str:
    monkeypatch.setattr(sys, "argv", ["sample", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    main()
    return capsys.readouterr().out


def logp(folder, tokenizer) -> float:
    """log p(answer | prompt), with its end token, from a plain forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [*tokenizer(PROMPT + ANSWER).input_ids, tokenizer.eos_token_id]
    start = len(tokenizer(PROMPT).input_ids)
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    return sum(float(logps[position - 1, ids[position]]) for position in range(start, len(ids)))


@pytest.mark.parametrize("run", ["none", "lora"], indirect=True)
def test_the_reward_of_an_answer_is_beta_times_its_log_ratio(run, model_folder, monkeypatch, capsys):
    typed = f"{PROMPT}\n{ANSWER}\n".replace("\n\n", "\\n\\n")
    output = sampled(monkeypatch, capsys, str(run), "--checkpoint=last", "--max-new-tokens=3", typed=typed)
    found = float(re.findall(r"reward ([+-]\d+\.\d+)", output)[-1])
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    expected = 0.1 * (logp(run / "export", tokenizer) - logp(model_folder, tokenizer))
    assert abs(expected) > 0.01
    assert found == pytest.approx(expected, abs=6e-4)


def test_answers_of_both_models_to_the_prompts_of_a_file(run, tmp_path, monkeypatch, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"\n\nHuman: {word}\n\nAssistant:"}) + "\n" for word in ("one", "two"))
    )
    output = sampled(monkeypatch, capsys, str(run), f"--prompts={file}", "--max-new-tokens=4")
    assert output.count("policy") == output.count("reference") == 2
    assert "Human: two" in output
    assert sampled(monkeypatch, capsys, str(run), f"--prompts={file}", "--max-new-tokens=4") == output
    assert sampled(monkeypatch, capsys, str(run), f"--prompts={file}", "--max-new-tokens=4", "--seed=1") != output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--prompts=absent.txt"], "--prompts=absent.txt: the file does not exist"),
        (["--chat"], "--chat needs a tokenizer with a chat template"),
    ],
)
def test_a_user_error_is_one_sentence(run, monkeypatch, capsys, arguments, reason):
    with pytest.raises(SystemExit):
        sampled(monkeypatch, capsys, str(run), *arguments)
    assert capsys.readouterr().err == f"Error: {reason}\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("long.txt", b"word " * 2000, "tokens, and data.max_length is"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "latin.txt: the file is not UTF-8"),
        ("rows.jsonl", b'{"prompt": "a"}\n{"question": "b"}\n', "rows.jsonl:2: the row must have a prompt"),
        ("rows.jsonl", b"{", "rows.jsonl:1: "),
    ],
)
def test_an_invalid_prompt_is_one_sentence(run, tmp_path, monkeypatch, capsys, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit):
        sampled(monkeypatch, capsys, str(run), f"--prompts={tmp_path / name}")
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_lines_without_text_are_not_prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\u2028line\n\n two\n", encoding="utf-8")
    assert list(prompts_of(tmp_path / "prompts.txt")) == ["one\u2028line", " two"]


def test_ctrl_c_ends_the_conversation(run, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert sampled(monkeypatch, capsys, str(run)) == "\n"
