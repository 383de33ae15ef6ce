"""Rewards of answers in a file."""

import csv
import json

import pytest
import torch

from lightning_dpo import UserError
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.evaluate import evaluate
from lightning_dpo.evaluation.scoring import AnswersFile
from lightning_dpo.reviews import TinyReviewer
from lightning_dpo.reviews.world import prompts, reviews
from tests.support.chat import assistant, chat_tokenizer, user
from tests.support.compose import composed, evaluated


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
    from tests.support.models import make_llama

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
        ({"prompt": "Hi?"}, r"answers.jsonl:1: the row must have answers \(a list\), answer, or chosen"),
        ({"prompt": "Hi?", "answers": "No way"}, r"answers.jsonl:1: the row must have answers \(a list\)"),
        ({"answer": "No"}, r"answers.jsonl:1: column 'prompt' is missing; there are answer"),
        ({"prompt": "Hi?", "answer": 3}, r"answers.jsonl:1: an answer must be text or messages, not a number"),
        ({"prompt": "Hi?", "answer": ""}, r"answers.jsonl:1: an answer is empty"),
        ({"prompt": "Hi?", "answers": [[]]}, r"answers.jsonl:1: an answer must be text or messages, not a list"),
        (
            {"prompt": "Hi?", "answer": "<|im_end|> no"},
            "answers.jsonl:1: the text contains a special token",
        ),
    ):
        with pytest.raises(UserError, match=message):
            score(row)
    with pytest.raises(UserError, match=r"answers.jsonl:1: \d+ tokens, more than data.max_length=5"):
        score({"prompt": "Hello?", "answer": "a long answer"}, overrides=["data.max_length=5"])


def test_scoring_a_model_against_itself_gives_no_information(tmp_path, trained, model_folder):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "answer": " yes"}))
    with pytest.raises(UserError, match=r"every reward would be 0: policy and reference are the same model"):
        evaluated(tmp_path, "model=llama", f"model.name={model_folder}", f"score={path}")


def test_only_the_tokens_of_the_answer_count(tmp_path):
    """The tiny tokenizer knows only the words of reviews, and the answer is exactly as long as allowed."""
    tokenizer, path = TinyReviewer().tokenizer(), tmp_path / "answers.jsonl"
    prompt, review = prompts()[0], reviews()[0]
    path.write_text(json.dumps({"prompt": prompt, "answer": review}))
    length = len(tokenizer(prompt + review).input_ids) + 1  # EOS
    (answer,) = AnswersFile(str(path), Tokenization(tokenizer, length, "truncate")).answers
    expected = [*tokenizer(prompt + review).input_ids, tokenizer.eos_token_id]
    assert [*answer["prompt_ids"], *answer["chosen_ids"]] == expected
    with pytest.raises(UserError, match=rf"answers.jsonl:1: {length} tokens, more than data.max_length={length - 1}"):
        AnswersFile(str(path), Tokenization(tokenizer, length - 1, "truncate"))
