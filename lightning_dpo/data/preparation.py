"""From sources to tokenized pairs: reading, validation, splits, sampling, mixing and counting."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from datasets import Dataset, concatenate_datasets

from lightning_dpo.data.parts import Part
from lightning_dpo.data.rows.pairs import NUMBERS
from lightning_dpo.data.rows.splitting import in_proportion, repeat, sample, split_by_prompt, without_prompts
from lightning_dpo.data.rows.validation import valid
from lightning_dpo.data.tokens.digests import pairs_digest
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedPairs:
    """Tokenized pairs.

    Attributes:
        train, val: The pairs. Their column `source` is an index into `sources`. Validation pairs are in a fixed random
            order, in which every prefix has each source in proportion.
        overlong: Training pairs that were removed.
        sources: Names of the sources.
        counts: Numbers of pairs that were kept, removed and truncated.
        ignored: Number of rows with a value in each column or field that is not in the tokens.
    """

    train: Dataset
    val: Dataset
    overlong: Dataset
    sources: list[str]
    counts: dict[str, int]
    ignored: dict[str, int] = field(default_factory=dict)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Numeric columns in which a training pair has a value with an effect."""
        return frozenset(name for name, neutral in NUMBERS.items() if set(self.train[name]) - {neutral})

    @cached_property
    def facts(self) -> dict[str, str]:
        """What identifies the training pairs: their number, and the digest of their tokens."""
        return {"training pairs": str(len(self.train)), "set of training pairs (sha256)": pairs_digest(self.train)}


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

    @property
    def columns(self) -> frozenset[str]:
        """Numeric columns that the options of the sources map."""
        return frozenset().union(*(part.columns for part in self.parts.values()))

    def __call__(self, validation_only: bool = False) -> PreparedPairs:
        """Read and tokenize.

        Args:
            validation_only: Do not prepare training pairs, nor read them if they have their own file or split.

        Raises:
            UserError: Rows are invalid, or no training or validation pairs are left.
        """
        self.counts, self.ignored = {}, Counter()
        if self.folder:
            RunFolder(self.folder).invalid_rows.unlink(missing_ok=True)
        sides = {name: self._sides(name, part, validation_only) for name, part in self.parts.items()}
        val = concatenate_datasets([val for _, val in sides.values()])
        if self.drop_seen_prompts and not validation_only:
            seen = set(val["prompt"])
            sides = {name: (self._unseen(train, seen), val) for name, (train, val) in sides.items()}
        train = [] if validation_only else [self._repeated(name, train) for name, (train, _) in sides.items()]
        pairs = concatenate_datasets([*train, val])
        # Rows without a value in the source column get the name `other`, if any row has one.
        names = [name or "other" for name in pairs["source"]] if any(pairs["source"]) else pairs["source"][:]
        sources = list(dict.fromkeys(names))
        trained, val, overlong = self._tokenized(pairs, sum(map(len, train)), [sources.index(name) for name in names])
        if len(sources) > 1:
            for side, kept in (("train", trained), ("val", val)):
                counts = Counter(kept["source"])
                self.counts |= {f"{side}_of_{name}": counts[index] for index, name in enumerate(sources)}
        log.info("Pairs: %s.", ", ".join(f"{name}={count}" for name, count in self.counts.items()))
        if self.ignored:
            shown = ", ".join(f"{name} ({count})" for name, count in self.ignored.most_common())
            log.info("Columns and fields that are not used, with the number of rows: %s.", shown)
        # `trainer.limit_val_batches` and sampled answers use the first pairs, which must not be those of one source.
        val = val.select(in_proportion(val["source"][:], self.seed))
        return PreparedPairs(trained, val, overlong, sources, self.counts, dict(self.ignored.most_common()))

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
        read = part.read(split, name)
        if read is None:
            return None
        pairs, rows = read
        self.ignored.update({f"{name}.{column}" if name else column: count for column, count in rows.ignored.items()})
        if rows.skipped:
            self.counts["skipped"] = self.counts.get("skipped", 0) + rows.skipped
        pairs = self._valid(pairs)
        if not name:
            return pairs
        names = ["/".join(filter(None, (name, source))) for source in pairs["source"]]
        return pairs.remove_columns("source").add_column("source", names, feature=pairs.features["source"])

    def _valid(self, pairs: Dataset) -> Dataset:
        kept = valid(pairs, self.on_invalid, self.max_invalid_fraction, self.folder)
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

    def _tokenized(self, pairs: Dataset, train: int, sources: list[int]) -> tuple[Dataset, Dataset, Dataset]:
        """Tokenized training pairs, validation pairs, and overlong training pairs.

        All are tokenized together, so that `max_invalid_fraction` is a share of all pairs.

        Args:
            pairs: Training pairs followed by validation pairs.
            train: Number of training pairs.
            sources: Index of each pair's source.
        """
        tokens = self.tokenization.tokenize(pairs)
        tokens = tokens.add_column("side", ["train"] * train + ["val"] * (len(pairs) - train))
        tokens = tokens.remove_columns("source").add_column("source", sources)
        tokens = self._valid(tokens)
        # A row can have several pairs, and a pair can be repeated.
        of_rows = {
            (where, name) for where, names in zip(tokens["where"], tokens["ignored"], strict=True) for name in names
        }
        self.ignored.update(name for _, name in of_rows)
        of_side, overlong, truncated = tokens["side"][:], tokens["overlong"][:], tokens["truncated"][:]
        kept, left_out = [], []
        for name in ("train", "val") if train else ("val",):
            rows = [row for row, side in enumerate(of_side) if side == name]
            short = [row for row in rows if not overlong[row]]
            if not short:
                raise UserError(
                    f"data: no {name} pairs are left; {len(rows)} are longer than "
                    f"data.max_length={self.tokenization.max_length}: increase it, set data.on_overlong=truncate, or "
                    "add pairs"
                )
            self.counts |= {name: len(short), f"{name}_overlong": len(rows) - len(short)}
            if cut := sum(truncated[row] for row in short):
                self.counts[f"{name}_truncated"] = cut
            kept.append(tokens.select(short))
            left_out.append(tokens.select([row for row in rows if overlong[row]]))
        return (kept[0] if train else tokens.select([])), kept[-1], left_out[0]
