import json

from lightning_dpo.reports.runs import read_run, read_runs
from lightning_dpo.reports.samples import full_color, samples_beside, samples_of
from tests.support.fake_runs import fake_run


def write(folder, *rows: dict) -> None:
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_answers_of_the_last_validation(tmp_path):
    run = fake_run(tmp_path, "0", [], {"val/loss": 0.5})
    assert samples_of(read_run(run)) == []
    write(run, {"step": 1, "prompt": "p", "policy": "old"}, {"step": 2, "prompt": "p", "policy": "a", "reference": "r"})
    assert samples_of(read_run(run)) == [("p", [("policy", [("a", None)]), ("reference", [("r", None)])])]


def test_the_log_ratios_of_tokens(tmp_path):
    run = fake_run(tmp_path, "0", [], {"val/loss": 0.5})
    write(run, *({"step": 2, "prompt": prompt, "chosen": "a b", "policy": "c"} for prompt in "pq"))
    (run / "log_ratios.jsonl").write_text(
        json.dumps({"prompt": "p", "chosen": [["a", 0.5], [" b", -1.5]], "policy": [["c", 0.0]]}) + "\n"
    )
    first, second = samples_of(read_run(run))
    assert first == ("p", [("chosen", [("a", 0.5), (" b", -1.5)]), ("policy", [("c", 0.0)])])
    assert second == ("q", [("chosen", [("a b", None)]), ("policy", [("c", None)])])
    assert full_color([first, second]) == 1.5
    assert full_color([second]) is None


def test_the_same_prompts_of_several_runs(tmp_path):
    for number in range(2):
        run = fake_run(tmp_path, str(number), [f"loss.beta={number + 1}"], {"val/loss": 0.5})
        rows = [{"step": 1, "prompt": prompt, "policy": f"{prompt}{number}", "reference": "r"} for prompt in "pqs"]
        write(run, *rows[number:])
    fake_run(tmp_path, "2", ["loss.beta=9"], error="x")
    found = samples_beside(read_runs(tmp_path), 5)
    assert found == [(prompt, [("reference", "r"), ("β 1", f"{prompt}0"), ("β 2", f"{prompt}1")]) for prompt in "qs"]
    assert samples_beside(read_runs(tmp_path), 1) == found[:1]


def test_runs_with_different_references(tmp_path):
    for number in range(2):
        run = fake_run(tmp_path, str(number), [f"seed={number}"], {"val/loss": 0.5})
        write(run, {"step": 1, "prompt": "p", "policy": "a", "reference": f"r{number}"})
    assert samples_beside(read_runs(tmp_path), 1) == [
        ("p", [("reference of seed 0", "r0"), ("seed 0", "a"), ("reference of seed 1", "r1"), ("seed 1", "a")])
    ]
