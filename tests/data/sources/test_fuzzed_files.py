"""Damaged files of every format: one documented error, or every row is a pair, a reason or skipped."""

import gzip
import json
import random
import time
from functools import partial
from pathlib import Path

import datasets
import pytest

from lightning_dpo.data.parts import Part
from lightning_dpo.data.rows.pairs import ToPair
from lightning_dpo.data.sources import (
    compared_pair,
    hh_pair,
    jsonl_pair,
    ranked_pairs,
    shp_pair,
    swift_pair,
    ultrafeedback_pair,
)
from lightning_dpo.errors import UserError
from tests.support.chat import assistant, user

SOURCES: list[tuple[ToPair, dict]] = [
    (jsonl_pair, {"prompt": "q", "chosen": "a", "rejected": "b", "weight": 1.5}),
    (partial(jsonl_pair, prompt=None, chat=True, roles={"x": "user"}), {"chosen": "Q: a", "rejected": "Q: b"}),
    (
        jsonl_pair,
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")], "tools": [{"name": "t"}]},
    ),
    (hh_pair, {side: f"\n\nHuman: q\n\nAssistant: {side}" for side in ("chosen", "rejected")}),
    (shp_pair, {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": 9, "score_B": 2}),
    (ultrafeedback_pair, {"prompt": "q"} | {side: [user("q"), assistant(side)] for side in ("chosen", "rejected")}),
    (swift_pair, {"messages": [user("q"), assistant("a")], "rejected_response": "b"}),
    (
        partial(ranked_pairs, answers="answers", text="answer", score="rank"),
        {"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2.5}]},
    ),
    (
        partial(compared_pair, first="a", second="b", preference="p", prefers_first=0, prefers_second=1),
        {"prompt": "q", "a": "a", "b": "b", "p": 0},
    ),
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 1e308, float("nan"), "", " ", "x", "\ud800", "\x00", [], {}, [None], [[]], {"role": None},
    {"role": "user"}, [{"role": "assistant", "content": 3}], "[{}]", '{"role": 1}', {"from": "gpt", "value": []},
    {"": {"": 0}}, 10**400, "a" * 9999,
]  # fmt: skip
BYTES = [
    b"\x00",
    b"\xff",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\\",
    b"\\ud800",
    b"1e999",
    b"\xef\xbb\xbf",
    b"\r",
]


def damaged_value(value, rng: random.Random):
    """`value` with one value in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.15:
            return {key: inner for key, inner in value.items() if key != name}
        if kind < 0.3:
            return value | {rng.choice(["images", "name", "weight", "role", "x"]): rng.choice(VALUES)}
        return value | {name: damaged_value(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        return [*value[:index], *rng.choice([[], [damaged_value(value[index], rng)]]), *value[index + 1 :]]
    return rng.choice(VALUES)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 3])):
        start = rng.randrange(len(data) + 1)
        data = data[:start] + rng.choice(BYTES) * rng.choice([1, 1, 2000]) + data[start + rng.choice([0, 0, 1, 9]) :]
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


def write(folder: Path, rows: list, rng: random.Random) -> Path:
    suffix = rng.choice([".jsonl", ".jsonl", ".jsonl.gz", ".json", ".parquet"])
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        try:
            datasets.Dataset.from_list([row for row in rows if isinstance(row, dict)]).to_parquet(path)
        except Exception:  # Arrow cannot hold these rows
            return write(folder, rows, rng)
        path.write_bytes(damaged_bytes(path.read_bytes(), rng) if rng.random() < 0.3 else path.read_bytes())
        return path
    text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    data = damaged_bytes(text.encode(), rng)
    path.write_bytes(damaged_bytes(gzip.compress(data), rng) if suffix == ".jsonl.gz" else data)
    return path


def fuzz(folder: Path, seed: int) -> str:
    rng = random.Random(seed)
    to_pair, row = rng.choice(SOURCES)
    rows = [row if rng.random() < 0.3 else damaged_value(row, rng) for _ in range(rng.randrange(1, 6))]
    path = write(folder, rows, rng)
    try:
        read = Part(to_pair, path=str(path)).read("train", "")
    except UserError:
        return "an error"
    assert read is not None
    pairs, counts = read
    assert all(valid == "" or len(valid) < 1000 for valid in pairs["invalid"])
    assert len(set(pairs["where"])) + counts.skipped == counts.read, "every row is a pair, a reason or skipped"
    if path.suffix == ".jsonl":
        assert counts.read == sum(bool(line.strip(b" \t\r\n\x0b\x0c")) for line in path.read_bytes().split(b"\n"))
    return "a reason" if any(pairs["invalid"]) else "pairs"


@pytest.mark.parametrize("seconds", [4, pytest.param(600, marks=[pytest.mark.extended, pytest.mark.timeout(700)])])
def test_damaged_files(tmp_path, seconds):
    outcomes, seed, end = set(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            outcomes.add(fuzz(tmp_path, seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        seed += 1
    assert outcomes == {"an error", "a reason", "pairs"}
    print(f"{seed} files")
