import base64
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
        fake_run(folder, f"{number}_beta-{beta}", [f"loss.beta={beta}"], metrics, [{"step": 1, "val/kl": 1.0}])
    return folder


def test_what_a_report_leaves(sweep):
    written = report(sweep)
    assert [path.name for path in written] == ["report.md", "report.html", "sweep.csv", "frontier.png", "curves.png"]
    assert all(path.exists() for path in written)
    text = (sweep / "report.md").read_text()
    assert text.startswith("# reviews-dpo 2026-01-02\n\n2 runs: 2 finished.\n")
    assert "| 1\\_beta-0.5 | 0.5 | 0.600 ± 0.048 | 2.000 ± 0.196 | 1.5 | finished |" in text
    assert "![Reward or accuracy against the KL from the reference.](frontier.png)" in text


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
        command = """'hydra.searchpath=["file:///conf"]' hydra.mode=MULTIRUN sweep=mine loss.beta=1,2"""
        assert f"    python -m lightning_dpo.train {command}\n" in (sweep / "report.md").read_text()


def test_the_page_needs_nothing_else(sweep):
    report(sweep)
    page = BeautifulSoup((sweep / "report.html").read_text(), "html.parser")
    assert "default-src 'none'" in page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    sources = [tag["src"] for tag in page.find_all(src=True)]
    assert len(sources) == 2
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert not page.find_all(["script", "link", "iframe"])
    assert [cell.text for cell in page.find_all("tr")[1].find_all("td")][:3] == ["0_beta-0.1", "0.1", "0.600 ± 0.048"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_whatever_a_run_writes_is_text(sweep, payload):
    fake_run(sweep, "2_x", [f"loss.beta={payload}", f"{payload}=1"], error=payload)
    report(sweep)
    page = BeautifulSoup((sweep / "report.html").read_text(), "html.parser")
    assert not page.find_all("script")
    assert len(page.find_all("img")) == 2
    assert page.find("li").text == f"2_x: {payload}"
    assert "<script>" not in (sweep / "report.md").read_text()


def test_one_run_is_not_a_folder_of_runs(sweep):
    (sweep / "0_beta-0.1" / ".hydra").mkdir()
    (sweep / "0_beta-0.1" / ".hydra" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"is the folder of one run: use the folder of its sweep, or outputs/RUN_NAME"):
        report(sweep / "0_beta-0.1")


def test_a_run_in_progress_is_reported(sweep):
    folder = fake_run(sweep, "2_beta-0.9", ["loss.beta=0.9"])
    with claimed(folder):
        report(sweep)
    assert "3 runs: 2 finished, 1 running." in (sweep / "report.md").read_text()
    report(sweep)
    assert "3 runs: 2 finished, 1 interrupted." in (sweep / "report.md").read_text()


def test_a_folder_without_runs_is_reported(tmp_path):
    with pytest.raises(UserError, match="has no subfolders with runs: use the folder of a sweep"):
        report(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "lightning_dpo.report", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {tmp_path} has no subfolders with runs")
    assert "Traceback" not in done.stderr
