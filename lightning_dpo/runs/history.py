"""`metrics.csv`: the metrics of a run by optimizer step. A kill at any moment loses no rows of finished checkpoints."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_dpo.errors import WriteError
from lightning_dpo.run_folder import write_atomically

STEP = "step"
Row = Mapping[str, object]


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`; empty if it does not exist.

    A last line without an end is not a row: its values may be truncated, if the run is writing it or was killed.
    """
    text = path.read_bytes().decode() if path.exists() else ""
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


class History:
    """Writes `metrics.csv`: rows are appended, and a new column replaces the file atomically.

    Args:
        path: The file.
        done: Number of optimizer steps that are done. The resumed run repeats later ones, so their rows are removed.
    """

    def __init__(self, path: Path, done: int = 0) -> None:
        # Steps are logged from 0, so step `done` is the first one after the checkpoint.
        old = [row for row in read_history(path) if int(row[STEP]) < done]
        self.path, self.columns = path, sorted({name for row in old for name in row})
        self._new: list[Row] = []
        self._rows, self._appending = len(old), False
        if old:
            self._replace(old)

    def add(self, metrics: Mapping[str, object], step: int) -> None:
        """Add a row. `save` writes it."""
        self._new.append({**metrics, STEP: step})

    def save(self) -> None:
        """Write the rows that were added.

        Raises:
            WriteError: They cannot be written.
        """
        if not self._new:
            return
        columns = {name for row in self._new for name in row} - set(self.columns)
        # Also if a signal or a full disk has interrupted an append, after which a part of the rows is in the file.
        if columns or self._appending:
            old = read_history(self.path)[: self._rows] if self.columns else []
            self.columns = sorted({*self.columns, *columns})
            self._replace([*old, *self._new])
        else:
            self._appending = True
            self._append(self._lines(self._new))
        self._rows, self._new, self._appending = self._rows + len(self._new), [], False

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(f"{self.path} could not be written ({error.strerror})") from error

    def _replace(self, rows: Sequence[Row]) -> None:
        write_atomically(self.path, ",".join(self.columns) + "\r\n" + self._lines(rows))

    def _lines(self, rows: Sequence[Row]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns).writerows(rows)
        return text.getvalue()


def validation_after(step: int, rows: Sequence[dict[str, str]]) -> dict[str, str]:
    """The row of the validation after an optimizer step; empty if there is none.

    Args:
        step: Number of optimizer steps.
        rows: The rows of `metrics.csv`.
    """
    validated = [row for row in rows if row.get("val/loss")]
    # A run logs its validation before the first step at 0. Training logs steps from 0, so a validation after step n is
    # logged at n - 1 or, after training, at n.
    after = validated[1:] if validated and int(validated[0]["step"]) == 0 else validated
    return next((row for row in after if int(row["step"]) in (step - 1, step)), {})
