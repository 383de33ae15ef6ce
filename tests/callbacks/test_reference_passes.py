"""Runs of several processes that fill one cache, and runs that are killed while they do."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_dpo.callbacks import reference_passes
from lightning_dpo.models.reference_cache import ReferenceCache, ReferenceTable
from lightning_dpo.models.reference_factories import Auto
from tests.callbacks.test_reference_scores import fit
from tests.support.ranks import forked, on_ranks


def _fit_and_count(folder: Path, pairs: Path, tokenizer) -> int:
    """Completions that this process added."""
    added, add = [], ReferenceCache.add
    ReferenceCache.add = lambda self, keys, logps: (added.append(len(keys)), add(self, keys, logps))
    fit(folder, pairs, tokenizer, Auto(cache_dir=str(folder / "cache")), max_epochs=1, devices=1)
    return sum(added)


def test_runs_that_start_together_compute_each_completion_once(tmp_path, pairs_file, tokenizer):
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(on_ranks, 1, _fit_and_count, tmp_path, pairs_file, tokenizer) for _ in range(2)]
    assert sorted(run.result()[0] for run in runs) == [0, 48]


def _fit_and_die(folder: Path, pairs: Path, tokenizer, write: int, after: bool) -> None:
    """A run that writes a shard per batch, and is killed by SIGKILL before or after a file gets its name."""
    reference_passes._SECONDS, reference_passes._TOKENS = 0.0, 60
    renamed, replace = [], Path.replace

    def counting(path, target):
        if Path(target).suffix == ".safetensors":
            renamed.append(target)
        if len(renamed) < write:
            return replace(path, target)
        if after:
            replace(path, target)
        return os.kill(os.getpid(), signal.SIGKILL)

    Path.replace = counting
    _fit_and_count(folder, pairs, tokenizer)


SHARDS = 23  # 48 completions in passes of at most 60 tokens


@pytest.mark.extended
def test_an_undisturbed_run_writes_this_many_shards(tmp_path, pairs_file, tokenizer):
    assert forked(_fit_and_die, tmp_path, pairs_file, tokenizer, SHARDS + 1, False) == 0
    assert len(list((tmp_path / "cache").rglob("[!.]*.safetensors"))) == SHARDS


EVERY_WRITE = [(write, after) for write in range(1, SHARDS + 1) for after in (False, True)]
QUICK = [(1, False), (2, True), (4, False)]


@pytest.mark.parametrize(
    ("write", "after"), [pytest.param(*one, marks=() if one in QUICK else pytest.mark.extended) for one in EVERY_WRITE]
)
def test_a_killed_run_loses_one_shard(tmp_path, pairs_file, tokenizer, write, after):
    assert forked(_fit_and_die, tmp_path, pairs_file, tokenizer, write, after) == -signal.SIGKILL
    shards = list((tmp_path / "cache").rglob("[!.]*.safetensors"))
    assert len(shards) == (write if after else write - 1)
    kept = sum(len(ReferenceTable([path])) for path in shards)
    assert on_ranks(1, _fit_and_count, tmp_path, pairs_file, tokenizer) == [48 - kept]
