import errno
from pathlib import Path

import pytest

from lightning_dpo.errors import WriteError
from lightning_dpo.run_folder import RunFolder, atomic_folder, atomic_write, started_runs, write_atomically


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    write_atomically(tmp_path / "a", "old")
    with (
        pytest.raises(WriteError, match=r"a could not be written \(No space left"),
        atomic_write(tmp_path / "a") as file,
    ):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "file").write_text(text)
    with pytest.raises(KeyError), atomic_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "file").read_text() == "new"


def test_a_link_in_a_foreign_folder_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    for name in ("a", ".a.partial"):
        (tmp_path / name).symlink_to("victim")
    write_atomically(tmp_path / "a", "theirs")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "theirs"


def test_what_a_kill_left_is_overwritten_and_does_not_pile_up(tmp_path):
    (tmp_path / ".a.partial").write_text("half of something")
    write_atomically(tmp_path / "a", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_sweeps_job_knows_its_sweep(tmp_path):
    assert RunFolder(tmp_path / "0").sweep is None
    (tmp_path / "multirun.yaml").touch()
    assert RunFolder(tmp_path / "0").sweep == tmp_path


def test_runs_that_have_begun_are_found_below_a_folder(tmp_path):
    for name, file in (("1_a", "config.yaml"), ("0_b", "error.txt"), ("2_c", "train.log"), (".hidden", "config.yaml")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    assert [run.path.name for run in started_runs(tmp_path)] == ["0_b", "1_a"]
