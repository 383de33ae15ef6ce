from lightning_dpo import UserError
from lightning_dpo.runs.state import (
    RunState,
    claimed,
    failure,
    record_failure,
    run_state,
    set_aside,
)  # fmt: skip
from tests.support.ranks import on_ranks


def test_what_a_folder_shows_of_its_run(tmp_path):
    folder = tmp_path / "run"
    assert run_state(folder) is RunState.NEW
    folder.mkdir()
    (folder / "config.yaml").touch()
    assert run_state(folder) is RunState.INTERRUPTED
    record_failure(folder, UserError("a\n b"))
    assert run_state(folder) is RunState.FAILED
    assert failure(folder) == "a b"
    (folder / "metrics.json").write_text("{}")
    assert run_state(folder) is RunState.FINISHED


def test_what_is_no_user_error_is_a_crash(tmp_path):
    record_failure(tmp_path, OSError("no space left"))
    assert run_state(tmp_path) is RunState.CRASHED
    assert failure(tmp_path) == "OSError: no space left"


def test_of_several_processes_the_first_message_is_first(tmp_path):
    for error in (UserError("the loss is not finite"), RuntimeError("connection closed by peer")):
        record_failure(tmp_path, error)
    assert failure(tmp_path) == "the loss is not finite"
    assert "connection closed by peer" in (tmp_path / "error.txt").read_text()


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    with claimed(tmp_path):
        assert on_ranks(1, refused, tmp_path) == [
            f"{tmp_path}: another process is running in this folder; wait for it, or stop it"
        ]
    assert on_ranks(1, refused, tmp_path) == [""]


def refused(folder) -> str:
    try:
        with claimed(folder):
            return ""
    except UserError as error:
        return str(error)


def test_attempts_are_kept(tmp_path):
    """What Hydra wrote for the new attempt stays; what the old one left is moved, every time to a place of its own."""
    for number in (1, 2):
        (tmp_path / ".hydra").mkdir(exist_ok=True)
        (tmp_path / "train.log").touch()
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "error.txt").write_text(str(number))
        set_aside(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir() if "attempt" not in path.name) == [".hydra", "train.log"]
        assert (tmp_path / f"attempt_{number}" / "error.txt").read_text() == str(number)
        assert (tmp_path / f"attempt_{number}" / "checkpoints").is_dir()
    set_aside(tmp_path)
    assert not (tmp_path / "attempt_3").exists()


def test_an_error_that_is_being_written_is_a_failure(tmp_path):
    """Another rank reads it at any moment."""
    for text in ("", "OSError: no space", "OSError: no space left\n"):
        (tmp_path / "error.txt").write_text(text)
        assert run_state(tmp_path) is RunState.FAILED
