"""From sources to tokenized pairs: reading, validation, splits, sampling, mixing and counting."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, concatenate_datasets
from filelock import FileLock

from lightning_dpo.data.parts import Part
from lightning_dpo.data.prepared_pairs import (
    PreparedPairs,
    cache_folder,
    opened_record,
    scratch_folder,
    write_record,
)
from lightning_dpo.data.rows.arrow import values_of
from lightning_dpo.data.rows.splitting import in_proportion, repeat, sample, split_by_prompt, without_prompts
from lightning_dpo.data.rows.validation import valid_rows
from lightning_dpo.data.source_digests import part_digest
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError, recorded_warnings
from lightning_dpo.models.digests import code_digest, digest_of
from lightning_dpo.run_folder import RunFolder, write_atomically

log = logging.getLogger(__name__)


@dataclass
class Preparation:
    """Prepares pairs. The arguments are those of `PreferenceDataModule`; `parts` are its sources by name."""

    parts: Mapping[str, Part]
    tokenization: Tokenization
    val_fraction: float
    drop_seen_prompts: bool
    on_invalid: Literal["error", "drop"]
    max_invalid_fraction: float
    max_pairs: int | None
    seed: int
    folder: Path | None
    counts: dict[str, int] = field(default_factory=dict, init=False)
    ignored: Counter[str] = field(default_factory=Counter, init=False)
    invalid: list[dict[str, str]] = field(default_factory=list, init=False)

    @property
    def columns(self) -> frozenset[str]:
        """Numeric columns that the options of the sources map."""
        return frozenset().union(*(part.columns for part in self.parts.values()))

    def __call__(self, validation_only: bool = False) -> PreparedPairs:
        """Read and tokenize, unless an earlier run has: the result is identified by files, options and code.

        Args:
            validation_only: Do not prepare training pairs, nor read them if they have their own file or split.

        Raises:
            UserError: Rows are invalid, or no training or validation pairs are left.
        """
        if self.folder:
            RunFolder(self.folder).invalid_rows.unlink(missing_ok=True)
        key = self._key(validation_only)
        if key is None:
            prepared = self._prepared(validation_only)
        else:
            # The processes of a run start together. One prepares the pairs, and the others wait and open the result.
            with FileLock(cache_folder() / f"{key}.lock"):
                found = opened_record(key)
                prepared = found or self._prepared(validation_only)
                if found is None:
                    write_record(prepared, key)
                else:
                    self._repeat_messages(prepared)
        log.info("Pairs: %s.", ", ".join(f"{name}={count}" for name, count in prepared.counts.items()))
        if prepared.ignored:
            shown = ", ".join(f"{name} ({count})" for name, count in prepared.ignored.items())
            log.info("Columns and fields that are not used, with the number of rows: %s.", shown)
        return prepared

    def _key(self, validation_only: bool) -> str | None:
        """Digest of everything that the pairs depend on; None if a source is unknown before its rows are read."""
        sources = {name: part_digest(part, validation_only) for name, part in self.parts.items()}
        if None in sources.values():
            return None
        own = (self.val_fraction, self.drop_seen_prompts, self.on_invalid, self.max_invalid_fraction, self.max_pairs)
        facts = [code_digest("data"), *self.tokenization.facts(), *map(repr, sources.items()), repr(own)]
        return digest_of((fact.encode() for fact in (*facts, repr((self.seed, validation_only)))), digits=32)

    def _repeat_messages(self, prepared: PreparedPairs) -> None:
        """Report what was reported when the pairs were prepared."""
        self._list_invalid(prepared.invalid)
        for name, level, text in prepared.messages:
            logging.getLogger(name).log(level, "%s", text)

    def _list_invalid(self, rows: list[dict[str, str]]) -> None:
        self.invalid += rows
        if self.folder and self.invalid:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.invalid)
            write_atomically(RunFolder(self.folder).invalid_rows, lines)

    def _prepared(self, validation_only: bool) -> PreparedPairs:
        self.counts, self.ignored, self.invalid = {}, Counter(), []
        with scratch_folder() as self._scratch, recorded_warnings() as messages:
            sides = {name: self._sides(name, part, validation_only) for name, part in self.parts.items()}
            val = concatenate_datasets([val for _, val in sides.values()])
            if self.drop_seen_prompts and not validation_only:
                seen = set(values_of(val, "prompt"))
                sides = {name: (self._unseen(train, seen), val) for name, (train, val) in sides.items()}
            train = [] if validation_only else [self._repeated(name, train) for name, (train, _) in sides.items()]
            pairs = concatenate_datasets([*train, val])
            # Rows without a value in the source column get the name `other`, if any row has one.
            names = pairs["source"][:]
            names = [name or "other" for name in names] if any(names) else names
            sources = list(dict.fromkeys(names))
            tokens = self.tokenization.tokenize(pairs)
            source = np.array([sources.index(name) for name in names])
            rows = self._rows_of_splits(tokens, sum(map(len, train)))
        if len(sources) > 1:
            for side in ("train", "val"):
                counts = Counter(source[rows[side]].tolist())
                self.counts |= {f"{side}_of_{name}": counts[index] for index, name in enumerate(sources)}
        # `trainer.limit_val_batches` and sampled answers use the first pairs, which must not be those of one source.
        rows["val"] = rows["val"][in_proportion(source[rows["val"]].tolist(), self.seed)]
        ignored = dict(self.ignored.most_common())
        return PreparedPairs(tokens, source.tolist(), rows, sources, self.counts, ignored, self.invalid, messages)

    def _repeated(self, name: str, train: Dataset) -> Dataset:
        return repeat(sample(train, self.max_pairs, self.seed), self.parts[name].weight, self.seed)

    def _sides(self, name: str, part: Part, validation_only: bool) -> tuple[Dataset | None, Dataset]:
        """Training and validation pairs of one source."""
        own = self._read(name, part, "validation")
        if own is not None:
            own = sample(own, self.max_pairs, self.seed)
        train = self._read(name, part, "train") if own is None or not validation_only else None
        if own is None:
            return split_by_prompt(sample(train, self.max_pairs, self.seed), self.val_fraction, self.seed)
        return train, own

    def _read(self, name: str, part: Part, split: str) -> Dataset | None:
        read = part.read(split, name, self._scratch / f"{name}-{split}.arrow")
        if read is None:
            return None
        pairs, rows = read
        self.ignored.update({f"{name}.{column}" if name else column: count for column, count in rows.ignored.items()})
        if rows.skipped:
            self.counts["skipped"] = self.counts.get("skipped", 0) + rows.skipped
        pairs = self._valid(pairs)
        if not name:
            return pairs
        names = ["/".join(filter(None, (name, source))) for source in values_of(pairs, "source")]
        return pairs.remove_columns("source").add_column("source", names, feature=pairs.features["source"])

    def _valid(self, pairs: Dataset) -> Dataset:
        rows = self._valid_rows(pairs)
        return pairs if len(rows) == len(pairs) else pairs.select(rows)

    def _valid_rows(self, pairs: Dataset) -> np.ndarray:
        kept = valid_rows(pairs, self.on_invalid, self.max_invalid_fraction, self._list_invalid)
        self.counts["invalid"] = self.counts.get("invalid", 0) + len(pairs) - len(kept)
        return kept

    def _unseen(self, train: Dataset, seen: set[str]) -> Dataset:
        kept = without_prompts(train, seen)
        if len(kept) == 0:
            raise UserError(
                "data: all training prompts are also in the validation set; is data.val_path the training file?"
            )
        if len(kept) < len(train):
            name = "train_prompt_in_validation"
            self.counts[name] = self.counts.get(name, 0) + len(train) - len(kept)
        return kept

    def _rows_of_splits(self, tokens: Dataset, train: int) -> dict[str, np.ndarray]:
        """Rows of the training pairs, of the validation pairs, and of overlong training pairs.

        All pairs are tokenized together, so that `max_invalid_fraction` is a share of all pairs.

        Args:
            tokens: Tokenized training pairs, followed by validation pairs.
            train: Number of training pairs.
        """
        kept = self._valid_rows(tokens)
        # A row can have several pairs, and a pair can be repeated.
        used = tokens if len(kept) == len(tokens) else tokens.select(kept)
        both = zip(values_of(used, "where"), values_of(used, "ignored"), strict=True)
        of_rows = {(where, name) for where, names in both for name in names}
        self.ignored.update(name for _, name in of_rows)
        overlong, truncated = np.array(tokens["overlong"][:]), np.array(tokens["truncated"][:])
        rows = {"train": kept[:0], "overlong": kept[:0]}
        for name, of_side in (("train", kept[kept < train]), ("val", kept[kept >= train])):
            if name == "train" and not train:
                continue
            short, long = of_side[~overlong[of_side]], of_side[overlong[of_side]]
            if not len(short):
                raise UserError(
                    f"data: no {name} pairs are left; {len(of_side)} are longer than "
                    f"data.max_length={self.tokenization.max_length}: increase it, set data.on_overlong=truncate, or "
                    "add pairs"
                )
            self.counts |= {name: len(short), f"{name}_overlong": len(long)}
            if cut := int(truncated[short].sum()):
                self.counts[f"{name}_truncated"] = cut
            rows |= {name: short} | ({} if name == "val" and train else {"overlong": long})
        return rows
