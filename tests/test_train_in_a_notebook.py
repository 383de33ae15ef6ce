import json

import pytest
from hydra import compose, initialize_config_dir

from lightning_dpo.train import CONFIG_DIR, train
from tests.support.training import small


def test_a_notebook_composes_a_config_and_trains(tmp_path, model_folder, hh_file, monkeypatch):
    """Twice in one process: each run has a folder of its own, and nothing is announced that was not written."""
    monkeypatch.chdir(tmp_path)
    for logger, files in (("none", []), ("csv", ["metrics.csv", "curves.png"])):
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            options = ["model=llama", "data=hh", f"logger={logger}", *small(model_folder, hh_file)]
            config = compose("train", options)
        assert train(config) == pytest.approx(0.5, abs=0.5)
        newest = max(tmp_path.glob("outputs/hh-dpo/*"), key=lambda path: path.stat().st_mtime_ns)
        assert [name for name in ("metrics.csv", "curves.png") if (newest / name).exists()] == files
        record = json.loads((newest / "metrics.json").read_text())
        assert record["architecture"].startswith("LlamaForCausalLM, ")
        assert record["val/pairs"] == 5
    assert len(list(tmp_path.glob("outputs/hh-dpo/*"))) == 2
