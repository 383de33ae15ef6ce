"""The examples in docs/extending.md work as they are printed."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lightning_dpo import UserError, labels, metrics
from lightning_dpo.cli import targets
from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.cli.config import ROOT
from lightning_dpo.evaluate import evaluate
from lightning_dpo.metrics import PairMetric, PairStd
from lightning_dpo.train import KEYS, train
from tests.support.compose import composed, evaluated
from tests.support.training import small

GUIDE = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture
def user(tmp_path, monkeypatch) -> list[str]:
    """The files of the guide in a folder; overrides that make Hydra find the configs there."""
    for path, text in re.findall(r"```(?:python|yaml)\n# ((?:mine|my_conf)/\S+)\n(.*?)```", GUIDE, re.DOTALL):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(targets, "OWN_PACKAGES", ("mine.",))
    return [f"hydra.searchpath=[file://{tmp_path / 'my_conf'}]"]


@pytest.mark.parametrize("loss", ["alpha_po", "clamped", "focal"])
def test_the_losses_train_and_evaluate_and_score(tmp_path, user, model_folder, hh_file, loss):
    """Without a reference, with log-probs of tokens, and a modifier."""
    run = tmp_path / "run"
    train(composed(run, *user, "model=llama", "data=hh", *small(model_folder, hh_file), f"loss={loss}", "logger=csv"))
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert json.loads((run / "metrics.json").read_text())["val/rewards/margins"] != 0
    shared = [*user, "model=llama", f"model.name={run / 'export'}"]
    metrics_of_export = evaluated(tmp_path / "evaluated", *shared, "data=hh", f"data.path={hh_file}")
    assert "val/rewards/accuracies" in metrics_of_export
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"prompt": "\n\nHuman: Hi\n\nAssistant:", "answers": [" Hello", " No"]}) + "\n")
    scored = tmp_path / "scored"
    scored.mkdir()
    evaluate(composed(scored, *shared, f"score={answers}", config_name="evaluate"))
    (row,) = [json.loads(line) for line in (scored / "scores.jsonl").open()]
    assert len(row["rewards"]) == 2


def votes(path: Path, *changes: dict) -> str:
    good = {"question": "Q:", "answer_0": " yes", "answer_1": " no", "better": 0, "votes": 3}
    rows = [good | {"question": f"Q{number}:"} | change for number, change in enumerate([{}, {}, *changes])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_data_set_skips_and_rejects_rows(tmp_path, user, model_folder):
    path = votes(tmp_path / "votes.jsonl", {"votes": 1}, {"better": 1})
    options = [*user, "model=llama", "data=votes", f"data.path={path}", "data.val_fraction=0.3"]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)

    def read(*overrides: str):
        checked = CheckedConfig(composed(tmp_path, *options, *overrides), KEYS)
        data = checked.build("data", tokenizer=tokenizer, chosen_only=False)
        data.setup()
        return data

    data = read()
    assert len(data.train_pairs) + len(data.val_pairs) == 3
    votes(tmp_path / "votes.jsonl", {"better": -1})
    with pytest.raises(UserError, match=r"votes\.jsonl:3: better is -1, and must be 0 or 1"):
        read("data.on_invalid=error")
    (tmp_path / "votes.jsonl").write_text('{"question": "Q:", "better": 0}\n')
    with pytest.raises(UserError, match=r"votes\.jsonl:1: column 'votes' is missing; there are question, better"):
        read("data.on_invalid=error")


def test_the_metric_and_its_label_are_valid():
    (metric,) = re.findall(r"\n    (PairMetric\(.*\)),\n\)", GUIDE)
    (label,) = re.findall(r"```python\n(\"val/.*),\n```", GUIDE)
    names = vars(metrics) | {"PairStd": PairStd}
    assert isinstance(eval(metric, names), PairMetric)
    assert list(eval(f"{{{label}}}", vars(labels))) == ["val/rewards/margin_std"]


def test_every_link_in_the_pages_leads_to_a_file():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
