"""Rows of a data set on the hub, each with its place."""

from collections.abc import Iterator

from datasets import load_dataset

from lightning_dpo.data.rows.pairs import Row
from lightning_dpo.errors import UserError


def hub_rows(name: str, split: str, data_dir: str | None = None, streaming: bool = False) -> Iterator[Row]:
    """The rows of a split.

    Args:
        name: Of the data set.
        split: The hub's name of the split.
        data_dir: A folder of the data set; None: all of it.
        streaming: Read as it comes, for a data set that is larger than what is wanted of it.

    Raises:
        UserError: It cannot be reached.
    """
    try:
        rows = load_dataset(name, data_dir=data_dir, split=split, streaming=streaming)
    except Exception as error:
        # What a hub that cannot be reached raises depends on the cache, the network and the library's version.
        raise UserError(
            f"data: {name} cannot be loaded ({type(error).__name__}); without a network give a file with data.path"
        ) from error
    return ((f"{name}[{split}]:{number}", row) for number, row in enumerate(rows))
