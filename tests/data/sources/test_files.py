import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_dpo.data.parts import Part
from lightning_dpo.data.sources import jsonl_pair
from lightning_dpo.data.sources.files import read_rows
from lightning_dpo.errors import UserError

ROWS = [{"prompt": "a"}, {"prompt": "b"}]


def write(path, suffix: str):
    path = path / f"file{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if suffix == ".jsonl":
        path.write_text(lines)
    elif suffix == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_the_same_rows_from_every_format(tmp_path, suffix):
    path = write(tmp_path, suffix)
    assert list(read_rows(path)) == [(f"{path.name}:1", ROWS[0]), (f"{path.name}:2", ROWS[1])]


def test_a_line_that_is_not_a_row_is_reported(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": \n\n"text"\n{"prompt": "\xff"}\n' + b"[" * 20_000)
    places = [("file.jsonl:1", {"prompt": "a"}), ("file.jsonl:2", "the line is not valid JSON")]
    places += [
        ("file.jsonl:4", "the row must be a JSON object, not text ('text')"),
        ("file.jsonl:5", "the line is not valid UTF-8"),
    ]
    places += [("file.jsonl:6", "the line is nested too deeply")]
    assert list(read_rows(path)) == places


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "the file does not exist"),
        ("file.csv", b"a,b", "must end in .jsonl, .jsonl.gz, .json, .parquet"),
        ("file.json", b"{}", "must be one list of rows"),
        ("file.json", b"[", "not JSON"),
        ("file.jsonl.gz", b"no gzip", "the file is damaged"),
        ("file.parquet", b"no parquet", "the file is damaged"),
        ("file.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)[:-20], "the file is damaged"),
        # 65 kB, which would become 64 MB in one row.
        (
            "file.jsonl.gz",
            gzip.compress(b"{}\n" + b"a" * (64 << 20), mtime=0),
            "file.jsonl.gz:2: the row is longer than 64 MB",
        ),
        ("file.json", b"[" * 20_000, "not JSON"),
        (
            "file.json",
            b'{"a": 1}\n{"a": 2}\n',
            "a row per line, .* rename it to .jsonl",
        ),
        ("file.json", b'[{"a": 1, "a": 2}]', "the key 'a' occurs twice in an object"),
        (
            "file.jsonl",
            b'[\n{"a": 1},\n{"a": 2}\n]',
            "the file is one JSON list, not a row per line; rename it to .json",
        ),
        ("file.jsonl", b'[{"a": 1}, {"a": 2}]', "the file is one JSON list, .* rename it to .json"),
        ("", None, "is a folder; data.path and data.val_path name files of pairs"),
    ],
)
def test_a_file_that_cannot_be_read_reports_why(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_rows(path))


def test_texts_of_parquet_that_are_not_utf8_are_reported_by_row(tmp_path):
    """Arrow reads them without a check."""
    texts = pa.array([b"a", b"\xff", b"c"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "file.parquet")
    rows = [row for _, row in read_rows(tmp_path / "file.parquet")]
    assert rows == [{"prompt": "a"}, "a text of the row is not valid UTF-8", {"prompt": "c"}]


def test_nulls_of_json_are_kept_and_those_that_arrow_adds_are_not(tmp_path):
    rows = [{"call": {"city": "Paris", "unit": None}}, {"call": {"other": 1}}]
    (tmp_path / "file.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row for _, row in read_rows(tmp_path / "file.jsonl")] == rows
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "file.parquet")
    assert [row for _, row in read_rows(tmp_path / "file.parquet")] == [{"call": {"city": "Paris"}}, rows[1]]


def test_a_row_that_is_nested_too_deeply_is_invalid(tmp_path, tokenizer):
    """Some depths can be parsed, and not converted."""
    path = tmp_path / "file.jsonl"
    good = '{"prompt": "Q:", "chosen": "a", "rejected": "b", "note": %s}\n'
    path.write_text("".join(good % ("[" * depth + "]" * depth) for depth in (1, 900, 20_000)))
    pairs, counts = Part(jsonl_pair, path=str(path)).read("train", "")
    assert pairs["invalid"][0] == ""
    assert pairs["invalid"][2] == "the line is nested too deeply"
    assert counts.read == 3
