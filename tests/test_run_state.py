from lightning_dpo.run_state import RunState, failure, record_failure, run_state, set_aside, sweep_of


def test_what_a_folder_says_of_its_run(tmp_path):
    folder = tmp_path / "run"
    assert run_state(folder) is RunState.NEW
    folder.mkdir()
    (folder / "config.yaml").touch()
    assert run_state(folder) is RunState.INTERRUPTED
    record_failure(folder, ValueError("a\n b"), rank=0)
    assert run_state(folder) is RunState.FAILED
    assert failure(folder) == "a b"
    (folder / "metrics.json").write_text("{}")
    assert run_state(folder) is RunState.FINISHED


def test_of_several_processes_the_firsts_word_stays(tmp_path):
    record_failure(tmp_path, ValueError("of rank 1"), rank=1)
    assert failure(tmp_path) == "of rank 1"
    record_failure(tmp_path, ValueError("of rank 0"), rank=0)
    record_failure(tmp_path, ValueError("of rank 2"), rank=2)
    assert failure(tmp_path) == "of rank 0"


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


def test_a_sweeps_job_knows_its_sweep(tmp_path):
    assert sweep_of(tmp_path / "0") is None
    (tmp_path / "multirun.yaml").touch()
    assert sweep_of(tmp_path / "0") == tmp_path
