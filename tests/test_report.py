import base64
import hashlib
import json
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup
from omegaconf import OmegaConf

from lightning_dpo import UserError
from lightning_dpo.report import report
from lightning_dpo.runs.state import claimed
from tests.support.fake_runs import fake_run

PAYLOADS = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "javascript:alert(1)", "</style>"]


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "reviews-dpo" / "2026-01-02"
    for number, beta in enumerate((0.1, 0.5)):
        metrics = {"val/rewards/accuracies": 0.6, "val/kl": 1.0 + number, "val/kl_stderr": 0.1}
        fake_run(
            folder,
            f"{number}_beta-{beta}",
            [f"loss.beta={beta}"],
            metrics,
            [{"step": 1, "val/kl": 1.0}, {"step": 2, "val/kl": 2.0}],
        )
    return folder


def test_what_a_report_leaves(sweep):
    written = report(sweep)
    assert [path.name for path in written] == ["report.md", "report.html", "sweep.csv", "frontier.png", "curves.png"]
    assert all(path.exists() for path in written)
    text = (sweep / "report.md").read_text()
    assert text.startswith("# reviews-dpo 2026-01-02\n\n2 runs: 2 finished.\n")
    assert "| 1\\_beta-0.5 | finished | 0.5 | 0.600 ± 0.048 | 2.00 ± 0.20 | 1.5 |" in text
    assert "![Reward or accuracy against the KL from the reference. Intervals that are wider" in text


def test_the_command_contains_the_config_folder(sweep):
    """What Hydra writes after `--config-dir /conf`, and after `hydra.searchpath`."""
    sources = [
        {"schema": "file", "provider": "main", "path": "/ours"},
        {"schema": "file", "provider": "x", "path": "/conf"},
    ]
    for given in ([], ["hydra.searchpath=[file:///conf]"]):
        overrides = {"hydra": [*given, "hydra.mode=MULTIRUN"], "task": ["sweep=mine", "loss.beta=1,2"]}
        settings = {"hydra": {"overrides": overrides, "runtime": {"config_sources": sources}}}
        OmegaConf.save(settings, sweep / "multirun.yaml")
        report(sweep)
        command = """'hydra.searchpath=["file:///conf"]' sweep=mine loss.beta=1,2"""
        assert f"    lightning-dpo train {command}\n" in (sweep / "report.md").read_text()


def test_the_command_of_a_multirun_has_its_flag(sweep):
    overrides = {"hydra": ["hydra.mode=MULTIRUN"], "task": ["loss.beta=1,2"]}
    OmegaConf.save({"hydra": {"overrides": overrides, "runtime": {"config_sources": []}}}, sweep / "multirun.yaml")
    report(sweep)
    assert "    lightning-dpo train -m loss.beta=1,2\n" in (sweep / "report.md").read_text()


def test_the_page_needs_nothing_else(sweep):
    report(sweep)
    page = BeautifulSoup((sweep / "report.html").read_text(), "html.parser")
    assert "default-src 'none'" in page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    sources = [tag["src"] for tag in page.find_all(src=True)]
    assert len(sources) == 2
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert not page.find_all(["link", "iframe"])
    (script,) = page.find_all("script")
    digest = base64.b64encode(hashlib.sha256(script.string.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert [cell.text for cell in page.find_all("tr")[1].find_all("td")][:4] == [
        "0_beta-0.1",
        "finished",
        "0.1",
        "0.600 ± 0.048",
    ]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_whatever_a_run_writes_is_text(sweep, payload):
    fake_run(sweep, "2_x", [f"loss.beta={payload}", f"{payload}=1"], error=payload)
    report(sweep)
    page = BeautifulSoup((sweep / "report.html").read_text(), "html.parser")
    assert len(page.find_all("script")) == 1
    assert len(page.find_all("img")) == 2
    assert page.find("li").text == f"2_x: {payload}"
    assert "<script>" not in (sweep / "report.md").read_text()


def test_the_report_of_one_run(sweep):
    run = sweep / "0_beta-0.1"
    rows = [{"step": 2, "prompt": prompt, "policy": "yes", "reference": "no"} for prompt in ("p", "<b>q</b>")]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report(run) == [run / "report.html"]
    page = BeautifulSoup((run / "report.html").read_text(), "html.parser")
    assert [cell.text for cell in page.find("tr").find_all("td")] == [
        "accuracy", "0.600, 95 % interval 0.551 to 0.647, on 400 validation pairs"
    ]  # fmt: skip
    samples = page.find_all(class_="sample")
    assert [text.text for text in samples[1].find_all(class_="text")] == ["<b>q</b>", "yes", "no"]
    assert page.find("input")["data-filter"] == ".sample"


def test_tokens_are_highlighted_by_their_log_ratio(sweep):
    run = sweep / "0_beta-0.1"
    (run / "samples.jsonl").write_text(
        json.dumps({"step": 2, "prompt": "p", "chosen": "<i>no", "policy": "yes"}) + "\n"
    )
    ratios = {"prompt": "p", "chosen": [["<i>", -0.5], ["no", 0.125]], "policy": [["yes", 0.25]]}
    (run / "log_ratios.jsonl").write_text(json.dumps(ratios) + "\n")
    report(run)
    page = BeautifulSoup((run / "report.html").read_text(), "html.parser")
    (sample,) = page.find_all(class_="sample")
    assert [(one.text, one["class"], one["title"]) for one in sample.find_all("span")] == [
        ("<i>", ["less"], "-0.500"), ("no", ["more"], "+0.125"), ("yes", ["more"], "+0.250")
    ]  # fmt: skip
    assert [heading.text for heading in sample.find_all("h3")] == ["prompt", "chosen -0.38", "policy +0.25"]
    # The size is the opacity, at most 60 %.
    assert [one["style"].rpartition("/ ")[2] for one in sample.find_all("span")] == ["60%)", "15%)", "30%)"]


@pytest.mark.parametrize(("url", "links"), [("https://wandb.ai/me/x", 1), ("javascript:alert(1)", 0)])
def test_a_run_is_linked_to_wandb(sweep, url, links):
    run = fake_run(sweep, "2_beta-0.9", ["loss.beta=0.9"], {"val/loss": 0.5, "wandb": url})
    for folder in (sweep, run):
        report(folder)
        page = BeautifulSoup((folder / "report.html").read_text(), "html.parser")
        assert len([link for link in page.find_all("a") if link["href"] == url]) == links


def test_the_report_of_a_run_needs_a_finished_run(sweep):
    folder = fake_run(sweep, "2_beta-0.9", ["loss.beta=0.9"])
    with pytest.raises(UserError, match="the run is interrupted; a report needs a finished run"):
        report(folder)


def test_runs_that_failed_and_the_best_are_marked(sweep):
    fake_run(sweep, "2_beta-0.9", ["loss.beta=0.9"], error="out of memory")
    fake_run(sweep, "3_beta-1", ["loss.beta=1"], {"val/rewards/accuracies": 0.7, "architecture": "Llama", "data": {}})
    report(sweep)
    page = BeautifulSoup((sweep / "report.html").read_text(), "html.parser")
    marked = {row.find("td").text: row["class"] for row in page.find_all("tr", class_=True)}
    assert [name for name, classes in marked.items() if classes == ["best"]] == ["3_beta-1"]
    assert [name for name, classes in marked.items() if classes == ["failed"]] == ["2_beta-0.9"]
    assert page.find("a", string="3_beta-1")["href"] == "3_beta-1/"


def test_what_all_runs_have_in_common(tmp_path):
    for name in ("0", "1"):
        fake_run(
            tmp_path, name, [f"seed={name}"], {"architecture": "Llama, 1 M", "data": {"train": 9, "val_overlong": 1}}
        )
    report(tmp_path)
    assert "- model: Llama, 1 M\n- pairs: train 9, val overlong 1\n" in (tmp_path / "report.md").read_text()


def test_a_run_in_progress_is_reported(sweep):
    folder = fake_run(sweep, "2_beta-0.9", ["loss.beta=0.9"])
    with claimed(folder):
        report(sweep)
    assert "3 runs: 2 finished, 1 running." in (sweep / "report.md").read_text()
    report(sweep)
    assert "3 runs: 2 finished, 1 interrupted." in (sweep / "report.md").read_text()


def test_a_folder_without_runs_is_reported(tmp_path):
    with pytest.raises(UserError, match="has no subfolders with runs: use the folder of a run, of a sweep"):
        report(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "lightning_dpo.report", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {tmp_path} has no subfolders with runs")
    assert "Traceback" not in done.stderr
