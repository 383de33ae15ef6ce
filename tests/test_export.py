import base64
import csv
import json
import shlex
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from lightning_dpo.errors import UserError
from lightning_dpo.export import export_checkpoint, main
from lightning_dpo.labels import LABELS
from lightning_dpo.train import train
from tests.support.compose import composed
from tests.support.training import small


@pytest.fixture
def run(tmp_path, model_folder, hh_file, request):
    folder = tmp_path / "outputs" / "name" / "time"
    (folder / ".hydra").mkdir(parents=True)
    overrides = [
        "model=llama",
        "data=hh",
        "logger=csv",
        "callbacks.samples=null",
        f"adapter={getattr(request, 'param', 'none')}",
    ]
    config = composed(folder, *overrides, *small(model_folder, hh_file), "trainer.max_epochs=2")
    # As Hydra leaves it.
    train(config)
    # As the command line leaves it.
    (folder / "command.txt").write_text(shlex.join(["python", "-m", "lightning_dpo.train", *overrides]) + "\n")
    return folder


@pytest.mark.parametrize("run", ["none", "lora"], indirect=True)
def test_the_last_checkpoint_is_what_the_run_exported_itself(run):
    folder = export_checkpoint(run, "last", merge=False)
    assert folder == run / "export_last"
    (name,) = (file.name for file in folder.glob("*.safetensors"))
    assert (folder / name).read_bytes() == (run / "export" / name).read_bytes()
    assert json.loads((folder / "lightning_dpo.json").read_text()) == json.loads(
        (run / "export" / "lightning_dpo.json").read_text()
    )


def test_the_best_checkpoint_with_its_card(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export", str(run)])
    main()
    folder = run / "export_best"
    assert capsys.readouterr().out.strip() == str(folder)
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    exported = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, saved["state_dict"][f"policy.{name}"]) for name, value in exported.items())
    card = (folder / "README.md").read_text()
    assert f"The weights are those of optimizer step {saved['global_step']}" in card
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    row = next(row for row in rows if int(row["step"]) == saved["global_step"] - 1)
    for name in ("val/rewards/accuracies", "val/loss"):
        assert f"| {LABELS[name].heading} | {float(row[name]):.4g} |" in card
    assert "- train: 19" in card
    assert "Command: `python -m lightning_dpo.train model=llama data=hh logger=csv" in card


@pytest.mark.parametrize("run", ["lora"], indirect=True)
def test_merged_on_request(run):
    export_checkpoint(run, "last", merge=True)
    assert (run / "export_last" / "adapter_model.safetensors").exists()
    merged = run / "export_last_merged"
    assert AutoModelForCausalLM.from_pretrained(merged).num_parameters() > 0
    cards = ((path / "README.md").read_text() for path in (run / "export_last", merged))
    libraries = ["peft" if "library_name: peft" in card else "transformers" for card in cards]
    assert libraries == ["peft", "transformers"]


def test_what_cannot_be_exported(run, tmp_path):
    with pytest.raises(UserError, match="--merge has no effect: the run trained all weights"):
        export_checkpoint(run, "last", merge=True)
    with pytest.raises(UserError, match=r"nowhere is not the folder of a run: .*config.yaml does not exist"):
        export_checkpoint(tmp_path / "nowhere", "last", merge=False)
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best.ckpt does not exist; the run has last"):
        export_checkpoint(run, "best", merge=False)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("lightning_dpo.losses.DPO", "os.system"))
    export_checkpoint(run, "last", merge=False)  # the loss is not built
    config.write_text(config.read_text().replace("lightning_dpo.models.NoAdapter", "os.system"))
    with pytest.raises(UserError, match=r"adapter._target_=os.system is not allowed"):
        export_checkpoint(run, "last", merge=False)
    config.write_text("a: ${b}")
    with pytest.raises(UserError, match=r"config.yaml is not the config of a run"):
        export_checkpoint(run, "last", merge=False)


class Hub(BaseHTTPRequestHandler):
    """The requests of an upload, as the hub answers them. It keeps the files of the commit."""

    files: dict[str, bytes]

    def log_message(self, *arguments):
        """Print nothing."""

    def do_GET(self):
        self._answer({"name": "me", "type": "user", "orgs": []} if "whoami" in self.path else {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/api/repos/create"):
            self._answer({"url": f"http://{self.headers['Host']}/me/mine", "name": "me/mine"})
        elif "/preupload/" in self.path:
            named = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                {"success": True, "commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/0"}
            )
        else:
            self._answer({})

    def _answer(self, content: dict):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub(monkeypatch) -> Iterator[dict[str, bytes]]:
    """A stand-in for the hub on the loopback device. Returns the files that were uploaded."""
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub.files
    server.shutdown()


def test_an_export_is_uploaded_to_the_hub(run, hub, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export", str(run), "--push", "me/mine"])
    main()
    assert capsys.readouterr().out.splitlines() == [str(run / "export_best"), f"{constants.ENDPOINT}/me/mine"]
    exported = {file.name: file.read_bytes() for file in (run / "export_best").iterdir()}
    assert hub == {name: content for name, content in exported.items() if name != "lightning_dpo.json"}


@pytest.mark.parametrize("name", ["me/mine/x", "me/mine"])
def test_an_upload_that_is_impossible_is_rejected_before_the_export(run, monkeypatch, capsys, name):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["export", str(run), "--push", name])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith(f"Error: --push={name}: ")
    assert not (run / "export_best").exists()
