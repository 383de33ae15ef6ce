"""Where sampled answers go: a file of the run, the console, and a table in wandb."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import rich
from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.table import Table
from rich.text import Text

from lightning_dpo.printable import ending, printable
from lightning_dpo.run_folder import write_atomically

Row = dict[str, Any]
"""`step`, `prompt`, and a text per side: `chosen`, `rejected`, `policy`, `reference`."""

_SAMPLED = ("policy", "reference")
_SHOWN = 400  # characters of a prompt


class SampleOutput:
    """Writes, prints and logs the rows of each validation.

    Args:
        path: The file.
        shown: Number of rows to print.
    """

    def __init__(self, path: Path, shown: int) -> None:
        self.path, self.shown = path, shown
        self._table: Any = None

    def __call__(self, rows: list[Row], markers: Collection[str], trainer: Trainer) -> None:
        """Write, print and log rows.

        Args:
            rows: The rows of a validation.
            markers: Special tokens, which are dim on the console.
            trainer: The Trainer, for its loggers.
        """
        self._write(rows)
        self._show(rows, markers)
        self._to_wandb(rows, trainer)

    def _write(self, rows: list[Row]) -> None:
        """Append the rows. A resumed run replaces the rows of steps that it repeats."""
        old = [json.loads(line) for line in self.path.open(encoding="utf-8")] if self.path.exists() else []
        # A resumed run repeats the validations after its checkpoint.
        kept = [row for row in old if row["step"] < rows[0]["step"]]
        write_atomically(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*kept, *rows)))

    def _show(self, rows: list[Row], markers: Collection[str]) -> None:
        columns = ["prompt", *(name for name in _SAMPLED if name in rows[0])]
        table = Table(*columns, title=f"Answers at step {rows[0]['step']}", title_justify="left", show_lines=True)
        for row in rows[: self.shown]:
            texts = (ending(row[name], _SHOWN) if name == "prompt" else row[name] for name in columns)
            # `Text`, because rich would interpret brackets in an answer as markup.
            cells = [Text(printable(text)) for text in texts]
            for cell in cells:
                cell.highlight_words(list(markers), "dim")
            table.add_row(*cells)
        if self.shown:
            rich.get_console().print(table)

    def _to_wandb(self, rows: list[Row], trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                columns: list[str | int] = [*dict.fromkeys(name for row in rows for name in row)]
                self._table = self._table or wandb.Table(columns, log_mode="INCREMENTAL")
                for row in rows:
                    self._table.add_data(*(row.get(name) for name in self._table.columns))
                logger.experiment.log({"samples": self._table, "trainer/global_step": trainer.global_step})
