"""The items' texts, for the parts of a miner that read them and not vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from lit_metric.configurable import parts
from lit_metric.data import DataError, Items, Vocabulary
from lit_metric.index import Embeddings, Similarity
from lit_metric.index.scores import RunningTop
from lit_metric.mining.propose import Proposer
from lit_metric.store import replacing

_ROWS = 65536
_TOGETHER = 64
"""Anchors that BM25 asks for at once."""
_ITEMS = 8192
"""Items whose BM25 scores are computed at once."""


class ReadsTexts:
    """A part of a miner that reads the items' texts.

    Attributes:
        texts: path of a file by :func:`write_texts`. The DataModule sets it where it is None.
    """

    texts: str | None = None
    _lent: str | None = None
    _table: pa.Table | None = None

    def texts_of(self, ids: Tensor) -> list[str]:
        """The texts of the items ``ids [n]``.

        Raises:
            RuntimeError: if the place of the texts is unknown.
            DataError: if the file there isn't one by :func:`write_texts`.
        """
        found: list[str] = self._column("text", ids)
        return found

    def roles_of(self, ids: Tensor) -> list[str | None]:
        """The roles of the items ``ids [n]``, as of :func:`roles_of_items`; raises as :meth:`texts_of`."""
        found: list[str | None] = self._column("role", ids)
        return found

    def _column(self, name: str, ids: Tensor) -> list[Any]:
        if self._table is None:
            if self.texts is None:
                raise RuntimeError(
                    f"{type(self).__name__} reads the items' texts and has none: use it in the miner of a "
                    "MetricDataModule, or name a file by write_texts as its argument texts"
                )
            try:
                table = pa.ipc.open_file(pa.memory_map(str(self.texts))).read_all()
                self._table = table.select(["text", "role"])
            except (pa.ArrowException, OSError, KeyError) as error:
                raise DataError(
                    f"texts={str(self.texts)!r:.200} of {type(self).__name__} is no file of texts; write one "
                    f"by lit_metric.mining.texts.write_texts ({error})"
                ) from error
        found: list[Any] = self._table[name].take(pa.array(ids.numpy())).to_pylist()
        return found

    def lend(self, path: str) -> None:
        """Set the place of the texts, unless an argument gave it. Other data may change it later."""
        if self.texts == self._lent and path != self._lent:
            self.texts = self._lent = path
            self._table = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}


def text_of_items(items: Items, vocabulary: Vocabulary, ids: Tensor) -> list[str]:
    """One text for each of the items ``ids [n]``: its texts in their order, joined by commas.

    Example:
        >>> from lit_metric.data import Items
        >>> items, vocabulary = Items.encode([["red", "round"], ["red"]], kind="set")
        >>> text_of_items(items, vocabulary, torch.tensor([1, 0]))
        ['red', 'red, round']
    """
    return [", ".join(vocabulary.texts[text] for text in own) for own in items.texts.select(ids).tolist()]


def roles_of_items(items: Items, vocabulary: Vocabulary, ids: Tensor) -> list[str | None]:
    """The role of each of the items ``ids [n]``: that of all its texts, or None where they have none or
    several.

    Example:
        >>> from lit_metric.data import Items
        >>> items, vocabulary = Items.encode([["red"], ["round"]], roles=["query", "document"])
        >>> roles_of_items(items, vocabulary, torch.tensor([1, 0]))
        ['document', 'query']
    """
    if vocabulary.roles is None:
        return [None] * len(ids)
    sets = items.texts.select(ids)
    own = vocabulary.roles[sets.values].long()
    rows = torch.arange(len(ids)).repeat_interleave(sets.lengths)
    none = len(vocabulary.role_names)
    lowest = torch.full((len(ids),), none).scatter_reduce(0, rows, own, "amin")
    highest = torch.full((len(ids),), -1).scatter_reduce(0, rows, own, "amax")
    names = [*(name or None for name in vocabulary.role_names), None]
    return [names[number] for number in lowest.where(lowest == highest, none).tolist()]


def write_texts(items: Items, vocabulary: Vocabulary, folder: Path) -> Path:
    """Write one text for each item, as :func:`text_of_items` joins them, and its role.

    Args:
        items: ``N``.
        vocabulary: of the items.
        folder: of the file. The file's name depends on the items' content; an existing file is not rewritten.

    Returns:
        The path of an Arrow file.
    """
    content = hashlib.sha256(b"text, role")
    content.update(items.fingerprints.numpy().tobytes())
    if vocabulary.roles is not None:  # of which fingerprints know nothing
        content.update("\0".join(vocabulary.role_names).encode())
        content.update(vocabulary.roles[items.texts.values].numpy().tobytes())
    path = folder / f"texts-{content.hexdigest()[:16]}.arrow"
    if path.is_file():
        return path
    schema = pa.schema([("text", pa.large_string()), ("role", pa.string())])
    with replacing(path) as unfinished, pa.ipc.new_file(str(unfinished), schema) as writer:
        for rows in torch.arange(len(items)).split(_ROWS):
            columns = [function(items, vocabulary, rows) for function in (text_of_items, roles_of_items)]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def give_texts(miner: object, items: Items, vocabulary: Vocabulary, folder: Path) -> None:
    """Write the items' texts for those parts of a miner that read them; do nothing if there are none."""
    if readers := [part for part in parts(miner) if isinstance(part, ReadsTexts)]:
        path = str(write_texts(items, vocabulary, folder).resolve())
        for reader in readers:
            reader.lend(path)


class BM25Proposer(ReadsTexts, Proposer):
    """Items by their BM25 score against the anchor's text, highest first, by the library bm25s.

    It finds items with similar words and another meaning, however the encoder sees them. Every candidate
    shares a word with the anchor. The scores that filters and draws see are similarities of the vectors, as
    with any other proposer.

    Install it with ``pip install "lit-metric[bm25]"``.

    Args:
        k1: saturation of repeated words, above 0: the lower, the sooner repetition stops to count.
        b: normalisation of the text's length, 0 to 1: the higher, the lower the scores of long texts.
        stopwords: a language, such as ``"en"``, whose stop words are left out; None keeps all words.
        similarity: the scale of the scores.
        texts: file of the items' texts; by default the file of the DataModule.

    Raises:
        ValueError: if a number is out of range.
        ModuleNotFoundError: if bm25s is not installed.
    """

    def __init__(
        self,
        k1: float = 1.5,
        b: float = 0.75,
        stopwords: str | None = None,
        similarity: Similarity = "cosine",
        texts: str | None = None,
    ) -> None:
        if k1 <= 0 or not 0 <= b <= 1:
            raise ValueError(f"k1={k1} must be above 0, b={b} between 0 and 1")
        self._library()
        self.k1 = k1
        self.b = b
        self.stopwords = stopwords
        self.similarity = similarity
        self.texts = texts
        self._corpus: tuple[Embeddings, dict[str, int], list[csr_array]] | None = None

    def fit(self, corpus: Embeddings, seed: int) -> None:
        """See :class:`~lit_metric.mining.Proposer`; ``seed`` has no effect."""
        words = self._words(corpus.ids)
        known: dict[str, int] = {}
        blocks: list[csr_array] = []
        if any(words):
            index = self._library().BM25(k1=self.k1, b=self.b)
            index.index(words, show_progress=False)
            known, parts = index.vocab_dict, index.scores
            # [items, words], what a word adds to the score of an item that has it
            shape = (len(words), len(parts["indptr"]) - 1)
            scores = csc_array((parts["data"], parts["indices"], parts["indptr"]), shape=shape).tocsr()
            blocks = [scores[start : start + _ITEMS] for start in range(0, len(words), _ITEMS)]
        self._corpus = corpus, known, blocks

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`~lit_metric.mining.Proposer`."""
        if self._corpus is None:
            raise RuntimeError("call fit() before propose(): there is no corpus to search")
        corpus, known, blocks = self._corpus
        ids = torch.full((len(anchors), count), -1)
        scores = torch.full((len(anchors), count), -torch.inf)
        if not blocks:
            return scores, ids
        for rows in torch.arange(len(anchors)).split(_TOGETHER):
            words = [[known[word] for word in row if word in known] for row in self._words(anchors[rows])]
            asked = np.zeros((blocks[0].shape[1], len(rows)), np.float32)  # how often each has each word
            columns = np.repeat(np.arange(len(rows)), [len(row) for row in words])
            np.add.at(asked, (np.concatenate([np.array(row, np.int64) for row in words]), columns), 1)
            top = RunningTop(len(rows), min(count, len(corpus)), torch.device("cpu"))
            for number, block in enumerate(blocks):
                lexical = torch.from_numpy((block @ asked).T.copy())
                top.add(lexical.masked_fill_(lexical <= 0, -torch.inf), number * _ITEMS)
            for row, places in zip(rows.tolist(), top.result()[1], strict=True):
                found = places[places >= 0]
                ids[row, : len(found)] = corpus.ids[found]
                scores[row, : len(found)] = (corpus[found] @ vectors[row]).cpu()
        return scores, ids

    def forget(self) -> None:
        """See :class:`~lit_metric.mining.Proposer`."""
        self._corpus = None

    def _words(self, ids: Tensor) -> list[list[str]]:
        words = self._library().tokenize(
            self.texts_of(ids), stopwords=self.stopwords or [], return_ids=False, show_progress=False
        )
        # bm25s gives a text without words one empty word, which all such texts would share.
        return [[word for word in row if word] for row in words]

    @staticmethod
    def _library() -> ModuleType:
        try:
            import bm25s
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'BM25Proposer needs the library bm25s: pip install "lit-metric[bm25]"', name="bm25s"
            ) from error
        return bm25s
