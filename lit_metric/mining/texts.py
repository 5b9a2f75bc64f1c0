"""The items' texts, for the parts of a miner that read them and not vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from lit_metric.configurable import parts
from lit_metric.store import replacing

if TYPE_CHECKING:
    from lit_metric.data import Items, Vocabulary

_ROWS = 65536


class ReadsTexts:
    """A part of a miner that reads what items say.

    Attributes:
        texts: path of a file by :func:`write_texts`, which the data module sets where it is None.
    """

    texts: str | None = None
    _lent: str | None = None
    _table: pa.ChunkedArray | None = None

    def texts_of(self, ids: Tensor) -> list[str]:
        """The texts of the items ``ids [n]``.

        Raises:
            RuntimeError: if nobody said where the texts are.
        """
        if self._table is None:
            if self.texts is None:
                raise RuntimeError(
                    f"{type(self).__name__} reads the items' texts and has none: use it in the miner of a "
                    "MetricDataModule, or name a file by write_texts as its argument texts"
                )
            self._table = pa.ipc.open_file(pa.memory_map(self.texts)).read_all()["text"]
        found: list[str] = self._table.take(pa.array(ids.numpy())).to_pylist()
        return found

    def lend(self, path: str) -> None:
        """Say where the texts are, unless a file was given as an argument; other data may say it anew."""
        if self.texts == self._lent and path != self._lent:
            self.texts = self._lent = path
            self._table = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}


def text_of_items(items: Items, vocabulary: Vocabulary, ids: Tensor) -> list[str]:
    """One text for each of the items ``ids [n]``: its texts in their order with a comma between them.

    Example:
        >>> from lit_metric.data import Items
        >>> items, vocabulary = Items.encode([["red", "round"], ["red"]], kind="set")
        >>> text_of_items(items, vocabulary, torch.tensor([1, 0]))
        ['red', 'red, round']
    """
    return [", ".join(vocabulary.texts[text] for text in own) for own in items.texts.select(ids).tolist()]


def write_texts(items: Items, vocabulary: Vocabulary, folder: Path) -> Path:
    """Write one text for each item, see :func:`text_of_items`.

    Args:
        items: ``N``.
        vocabulary: of the items.
        folder: where the file goes; its name depends on the items' content, and one that is there already is
            left as it is.

    Returns:
        The path of an Arrow file.
    """
    name = hashlib.sha256(items.fingerprints.numpy().tobytes()).hexdigest()[:16]
    path = folder / f"texts-{name}.arrow"
    if path.is_file():
        return path
    schema = pa.schema([("text", pa.large_string())])
    with replacing(path) as unfinished, pa.ipc.new_file(str(unfinished), schema) as writer:
        for rows in torch.arange(len(items)).split(_ROWS):
            joined = [
                ", ".join(vocabulary.texts[text] for text in row) for row in items.texts.select(rows).tolist()
            ]
            writer.write_table(pa.table({"text": pa.array(joined, pa.large_string())}))
    return path


def give_texts(miner: object, items: Items, vocabulary: Vocabulary, folder: Path) -> None:
    """Let those parts of a miner that read texts know where they are; write nothing if there are none."""
    if found := [part for part in parts(miner) if isinstance(part, ReadsTexts)]:
        path = str(write_texts(items, vocabulary, folder).resolve())
        for reader in found:
            reader.lend(path)
