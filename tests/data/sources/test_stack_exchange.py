import json

from lightning_dpo.data.sources import hub
from lightning_dpo.data.sources.stack_exchange import stack_exchange_pairs


def question(number: int = 0, *scores: int) -> dict:
    answers = [{"text": f"<p>answer <b>{score}</b></p>", "pm_score": score} for score in scores or (1, 3)]
    return {"question": f"<p>Why {number} &lt; 1?</p>\n<pre><code>x\ny</code></pre>", "answers": answers}


def test_every_pair_of_answers_whose_scores_differ(tmp_path):
    path = tmp_path / "se.jsonl"
    path.write_text(json.dumps(question(0, 1, 3, 3, 0)))
    pairs = stack_exchange_pairs("train", path)
    # 6 pairs of 4 answers, less the tie.
    found = sorted(zip(pairs["chosen"][:], pairs["rejected"][:], strict=True))
    three = [(" answer 3", " answer 0")] * 2 + [(" answer 3", " answer 1")] * 2
    assert found == [(" answer 1", " answer 0"), *three]
    assert set(pairs["prompt"]) == {"\n\nHuman: Why 0 < 1?\nx\ny\n\nAssistant:"}


def test_every_hundredth_question_validates_and_no_more_are_read_than_wanted(monkeypatch):
    def rows(name, streaming, **rest):
        assert streaming
        for number in range(250):
            assert number < 201, "read too far"
            yield question(number)

    monkeypatch.setattr(hub, "load_dataset", rows)
    train, val = (stack_exchange_pairs(split, questions=201) for split in ("train", "validation"))
    assert (len(train), len(val)) == (198, 3)
    assert not set(train["prompt"]) & set(val["prompt"])
    assert json.loads(stack_exchange_pairs("validation", questions=1, chat=True)[0]["prompt"])[0]["role"] == "user"


def test_a_row_of_another_format_is_named(tmp_path):
    path = tmp_path / "se.jsonl"
    path.write_text(json.dumps({"question": "?"}))
    assert stack_exchange_pairs("train", path)["invalid"][:] == ["missing_field answers"]


def test_an_answer_without_a_score_is_named(tmp_path):
    path = tmp_path / "se.jsonl"
    path.write_text(json.dumps({"question": "?", "answers": [{"text": "a"}]}) + "\n" + json.dumps(question(0, 1, 2)))
    assert stack_exchange_pairs("train", path)["invalid"][:] == ["missing_field pm_score", ""]
