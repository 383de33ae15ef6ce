"""Runs that a signal stops: exit status, message, and how the resumed run ends, by the real command."""

import csv
import os
import pty
import signal
import sys

import pytest

from tests.support.command import TINY, command

# Two micro-batches to a step, two steps to an epoch, three epochs, a validation after each.
RUN = (*TINY, "trainer.max_epochs=3", "callbacks.samples.shown=0", "run_name=run")


def facts(folder) -> tuple[bytes, list[tuple]]:
    """The export's weights, and what `metrics.csv` has of losses, learning rates and validations."""
    kept = ("train/loss", "train/lr", "val/")
    (run,) = (folder / "outputs" / "run").iterdir()
    with (run / "metrics.csv").open(newline="") as file:
        rows = [
            {name: value for name, value in row.items() if value and name.startswith(kept)}
            for row in csv.DictReader(file)
        ]
    return (run / "export" / "model.safetensors").read_bytes(), [tuple(sorted(row.items())) for row in rows if row]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = command(folder, *RUN)
    assert status == 0, output
    return facts(folder)


MOMENTS = {
    "preparation": (("module", "DPOModule.configure_model", 1), "nothing saved yet"),
    "the first step": (("module", "DPOModule.training_step", 2), "saved at step 1; resume with ckpt_path=last"),
    "the middle of a step": (("module", "DPOModule.training_step", 7), "saved at step 4; resume with ckpt_path=last"),
    "the last step": (("module", "DPOModule.training_step", 12), "saved at step 6; resume with ckpt_path=last"),
    "validation": (("module", "DPOModule.validation_step", 2), "saved at step 2; resume with ckpt_path=last"),
    "sampling": (("models.generation", "Writer.answers", 2), "saved at step 2; resume with ckpt_path=last"),
    "saving": (("callbacks.last_checkpoint", "keep_previous", 2), "saved at step 3; resume with ckpt_path=last"),
    "export": (("runs.results", "export_run", 1), "saved at step 6; resume with ckpt_path=last"),
}
QUICK = ("the middle of a step", "validation")


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=() if name in QUICK else pytest.mark.extended) for name in MOMENTS]
)
def test_a_stopped_run_ends_like_one_that_was_not(tmp_path, undisturbed, moment):
    where, message = MOMENTS[moment]
    number = signal.SIGINT if moment == "validation" else signal.SIGTERM
    status, output = command(tmp_path, *RUN, signal_at=(number, *where))
    assert status == 128 + number
    assert output.splitlines()[-1] == f"Stopped by {number.name}: {message}."
    if moment == "preparation":
        assert not list(tmp_path.rglob("*.ckpt"))
        return
    status, output = command(tmp_path, *RUN, "ckpt_path=last")
    assert status == 0, output
    weights, rows = facts(tmp_path)
    assert weights == undisturbed[0]
    # A run that had trained all its steps validates once more, for metrics.json.
    assert rows[: len(undisturbed[1])] == undisturbed[1]


def test_a_stopped_sweep_reports_how_it_resumes(tmp_path):
    sweep = (*RUN, "-m", "loss.beta=0.1,0.5", "sweep_folder=sweep")
    status, output = command(tmp_path, *sweep, signal_at=(signal.SIGTERM, "module", "DPOModule.training_step", 3))
    assert status == 143
    last = output.splitlines()[-1]
    assert last.startswith("Stopped by SIGTERM: saved at step 2; resume the sweep with sweep_folder=")
    assert [path.name for path in sorted((tmp_path / "sweep").glob("[0-9]*"))] == ["0_beta-0.1"]
    assert "1 run: 1 interrupted." in (tmp_path / "sweep" / "report.md").read_text()


@pytest.mark.extended
def test_a_run_whose_terminal_is_closed_saves(tmp_path):
    """A terminal that is closed sends SIGHUP, and raises an error for whatever is written to it."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "lightning_dpo.train", *RUN, "trainer.max_epochs=99"])
    output = b""
    while b"Epoch 2/" not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert list(tmp_path.rglob("last.ckpt"))
    assert not list(tmp_path.rglob("error.txt"))


def test_a_crash_reports_what_was_saved(tmp_path):
    status, output = command(tmp_path, *RUN, "trainer.max_epochs=1", "optimizer.lr=1e38")
    assert status == 1
    assert "is not finite" in output
    assert "saved at step 1; resume with ckpt_path=last" in output
