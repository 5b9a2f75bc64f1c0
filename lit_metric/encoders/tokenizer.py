"""A Hugging Face tokenizer as the data part needs it: texts in, lists of token ids out, and a fingerprint."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.packing import max_positions

log = logging.getLogger(__name__)

T = TypeVar("T")

QUERY = "query"
"""The role of queries."""

DOCUMENT_NAMES = ("document", "passage", "corpus")
"""Names of the role "document", in the order in which they count."""

NO_ROLE = (
    "a query tower and a document tower encode items by their role, but these have none: say which are "
    "queries and which are documents, or train one encoder for both with MetricLearner"
)

TOKENIZE_AT_ONCE = 8192

HUGE = 10**6
"""Tokenizers without a limit give a larger number as their limit."""


_counts: ContextVar[dict[int, list[int]] | None] = ContextVar("_counts", default=None)


@contextmanager
def truncation_logged_once() -> Iterator[dict[int, list[int]]]:
    """Log at the end, in one line, how many of the texts tokenised inside were cut.

    Within another such region, the outer one logs.

    Returns:
        For each length: how many texts were longer, and the number of texts; see :func:`log_truncation`.
    """
    outer = _counts.get()
    if outer is not None:
        yield outer
        return
    counts: dict[int, list[int]] = {}
    token = _counts.set(counts)
    try:
        yield counts
    finally:
        _counts.reset(token)
        log_truncation(counts)


def log_truncation(counts: Mapping[int, Sequence[int]]) -> None:
    """Log how many texts were cut, if any.

    Args:
        counts: for each length in tokens: how many texts were longer, and the number of texts.
    """
    cut, texts = (sum(each[place] for each in counts.values()) for place in (0, 1))
    if cut and len(counts) == 1:
        message = "%d of %d texts are longer than max_length=%d tokens, and are cut there"
        log.warning(message, cut, texts, next(iter(counts)))
    elif cut:
        lengths = ", ".join(f"{each[0]} at {length} tokens" for length, each in counts.items() if each[0])
        log.warning("%d of %d texts are longer than max_length, and are cut: %s", cut, texts, lengths)


class TextTokenizer:
    """Tokenises whole texts, prompt and special tokens included.

    A text may have a role, such as "query" or "document", with a prompt and a length of its own. Roles
    without a prompt or length of their own use the defaults. As in sentence-transformers, the role "document"
    also has the names "passage" and "corpus".

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: texts are cut to this number of tokens, special ones included.
        prompt: put before every text.
        lower_case: lower-case texts, and the prompt, first.
        replacements: strings to be replaced in texts before anything else, one after the other in this order.
        prompts: by role, instead of ``prompt``.
        max_lengths: by role, instead of ``max_length``.
        pool_prompt: whether poolings see a prompt's tokens; without, they and what the tokenizer puts before
            them, such as [CLS], are kept out, as by ``include_prompt=False`` in sentence-transformers.
        special_tokens: whether the tokenizer puts special tokens around a text.

    Raises:
        ValueError: if a length is below 1, or the empty string is to be replaced.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        prompt: str = "",
        lower_case: bool = False,
        replacements: dict[str, str] | None = None,
        prompts: dict[str, str] | None = None,
        max_lengths: dict[str, int] | None = None,
        pool_prompt: bool = True,
        special_tokens: bool = True,
    ) -> None:
        for length in (max_length, *(max_lengths or {}).values()):
            if length < 1:
                raise ValueError(f"max_length is {length}; a text needs at least one token")
        if replacements and "" in replacements:
            raise ValueError("replacements: the empty string can't be replaced; name what should be")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = prompt
        self.lower_case = lower_case
        self.replacements = dict(replacements or {})
        self.prompts = dict(prompts or {})
        self.max_lengths = dict(max_lengths or {})
        self.pool_prompt = pool_prompt
        self.special_tokens = special_tokens

    @classmethod
    def load(
        cls,
        path: str,
        model: PreTrainedModel,
        max_length: int | None,
        options: dict[str, Any],
        **settings: Any,
    ) -> TextTokenizer:
        """Load the tokenizer that belongs to ``model``.

        Args:
            path: a folder or a Hugging Face id.
            model: says how many positions there are.
            max_length: None means what tokenizer and model allow.
            options: of ``AutoTokenizer.from_pretrained``.
            settings: the other arguments of :class:`TextTokenizer`.

        Raises:
            ValueError: if a length is more than the model has positions for, or the tokenizer has tokens that
                the model has no embedding of.
        """
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        table: Any = model.get_input_embeddings().weight
        beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= len(table)}
        if beyond:
            raise ValueError(
                f"{path}: the tokenizer has token {beyond[min(beyond)]!r} with id {min(beyond)}, but the "
                f"model's table of embeddings has {len(table)} rows (tokens beyond it: {len(beyond)}): "
                "tokens were added after it was trained, or the tokenizer is another model's. Save the model "
                f"after `model.resize_token_embeddings({max(beyond) + 1})`, or take its own tokenizer"
            )
        limit = max_positions(model)
        lengths = {
            f"max_lengths: {role!r} has": each for role, each in (settings.get("max_lengths") or {}).items()
        }
        if max_length is not None:
            lengths["max_length is"] = max_length
        for what, length in lengths.items():
            if limit is not None and length > limit:
                raise ValueError(f"{what} {length}, but {path} has positions for {limit} tokens only")
        if max_length is None:
            max_length = min(int(tokenizer.model_max_length or HUGE), HUGE if limit is None else limit)
            max_length = 512 if max_length >= HUGE else max_length
        return cls(tokenizer, max_length, **settings)

    def prompt_of(self, role: str | None) -> str:
        """The prompt before a text in this role."""
        return self._of_role(self.prompts, role, self.prompt)

    def max_length_of(self, role: str | None) -> int:
        """The number of tokens to which a text in this role is cut."""
        return self._of_role(self.max_lengths, role, self.max_length)

    @staticmethod
    def _of_role(values: Mapping[str, T], role: str | None, default: T) -> T:
        """The value of a role, under any of its names."""
        if role is None:
            return default
        names = DOCUMENT_NAMES if role == DOCUMENT_NAMES[0] else (role,)
        return next((values[name] for name in names if name in values), default)

    @property
    def roles(self) -> list[str]:
        """The roles with a prompt or a length of their own, under all their names."""
        names = dict.fromkeys([*self.prompts, *self.max_lengths])
        if any(name in names for name in DOCUMENT_NAMES):
            names[DOCUMENT_NAMES[0]] = None
        return list(names)

    def tokenize(self, texts: list[str], role: str | None = None) -> list[list[int]]:
        """Token ids of each text, at most ``max_length`` of them, all in one role."""
        return self.tokenize_and_count(texts, role)[0]

    def tokenize_and_count(self, texts: list[str], role: str | None = None) -> tuple[list[list[int]], int]:
        """See :meth:`tokenize`; also how many of the texts were longer and have been cut."""
        if not texts:
            return [], 0
        for old, new in self.replacements.items():
            texts = [text.replace(old, new) for text in texts]
        prompt = self.prompt_of(role)
        return self._ids([prompt + text for text in texts], role)

    def tokenize_ragged(self, texts: list[str], role: str | None = None) -> Ragged:
        """See :meth:`tokenize`; here the rows are ragged, and the log says how many texts were cut."""
        ids, lengths, cut = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], 0
        for start in range(0, len(texts), TOKENIZE_AT_ONCE):
            rows, longer = self.tokenize_and_count(texts[start : start + TOKENIZE_AT_ONCE], role)
            cut += longer
            lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
            ids.append(np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths[-1].sum())))
        with truncation_logged_once() as counts:
            found = counts.setdefault(self.max_length_of(role), [0, 0])
            found[0], found[1] = found[0] + cut, found[1] + len(texts)
        return Ragged.from_lengths(
            torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(lengths))
        )

    def tokenize_by_role(self, texts: list[str], roles: Sequence[str | None]) -> tuple[Ragged, Tensor | None]:
        """Token ids of the texts, each in its role, and how many leading ones poolings don't see.

        Returns:
            ``n`` rows; ``[n]`` int64, or None where poolings see all.
        """
        places: dict[str | None, list[int]] = {}
        for place, role in enumerate(roles):
            places.setdefault(role, []).append(place)
        if not places:
            return self.tokenize_ragged([]), None
        parts = [
            self.tokenize_ragged([texts[place] for place in rows], role) for role, rows in places.items()
        ]
        joined = Ragged.from_lengths(
            torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts])
        )
        order = torch.tensor([place for rows in places.values() for place in rows]).argsort()
        counts = [self.prompt_tokens(role) for role in places]
        skip = torch.tensor(counts).repeat_interleave(torch.tensor([len(part) for part in parts]))
        return joined.select(order), skip[order] if any(counts) else None

    def prompt_tokens(self, role: str | None = None) -> int:
        """How many leading tokens of a text in this role poolings don't see: those of its prompt, unless
        ``pool_prompt``.

        Raises:
            ValueError: if the prompt leaves no room for a text.
        """
        prompt = self.prompt_of(role)
        if self.pool_prompt or not prompt:
            return 0
        ids = self._ids([prompt], role)[0][0]
        length = len(ids) - (ids[-1] in self.special_ids)
        if length + 1 >= self.max_length_of(role):
            raise ValueError(
                f"the prompt {prompt!r:.60} has {length} tokens, which leaves none of a text cut to "
                f"{self.max_length_of(role)} for pooling: raise max_length or shorten the prompt"
            )
        return length

    def _ids(self, texts: list[str], role: str | None) -> tuple[list[list[int]], int]:
        if self.lower_case:
            texts = [text.lower() for text in texts]
        limit = self.max_length_of(role)
        options: dict[str, Any] = {
            "padding": False,
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "add_special_tokens": self.special_tokens,
            "verbose": False,  # "longer than the maximum", of texts that are cut and counted here
        }
        encoded = self.tokenizer(texts, truncation=True, max_length=limit, **options)
        ids = encoded["input_ids"]
        full = [place for place, row in enumerate(ids) if len(row) >= limit]
        if encoded.encodings:
            return ids, sum(bool(encoded.encodings[place].overflowing) for place in full)
        whole = self.tokenizer([texts[place] for place in full], truncation=False, **options) if full else {}
        return ids, sum(len(row) > limit for row in whole.get("input_ids", ()))

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of all that decides which ids a text gets, in any role."""
        parts = [self.content(), self.max_length, self.prompt, self.lower_case, [*self.replacements.items()]]
        prompts = {role: prompt for role, prompt in self.prompts.items() if prompt != self.prompt}
        lengths = {role: length for role, length in self.max_lengths.items() if length != self.max_length}
        if prompts or lengths:
            parts += [prompts, lengths]
        if not self.special_tokens:
            parts.append("no special tokens")
        content = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def content(self) -> Any:
        """What the tokenizer itself consists of, without this object's prompts, lengths and replacements."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = json.loads(backend.to_str())
            # Calls change these two, and every call here gives them.
            return {key: value for key, value in content.items() if key not in ("truncation", "padding")}
        return [type(self.tokenizer).__name__, self.tokenizer.get_vocab(), repr(self.tokenizer.init_kwargs)]

    @property
    def special_ids(self) -> set[int]:
        """Ids such as those of [CLS] and [PAD]."""
        return set(self.tokenizer.all_special_ids)

    @property
    def padding_id(self) -> int:
        """The id to pad with; masked, so any does where the tokenizer has none."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    def save(self, folder: Path, pad: bool = False) -> None:
        """Write the tokenizer's files. With ``pad``, it pads on the right, so that positions begin at the
        text, and one without a padding token uses another of its tokens."""
        tokenizer = self.tokenizer
        if pad:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
        if pad and tokenizer.pad_token is None:
            known = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
            tokenizer.pad_token = next(token for token in known if token)
        tokenizer.save_pretrained(folder)


class TowerTokenizers:
    """The tokenizers of two towers as one: texts in the role "query" go to the first, others to the second.

    Args:
        query: of the tower of queries.
        document: of the other.
    """

    def __init__(self, query: TextTokenizer, document: TextTokenizer) -> None:
        self.query, self.document = query, document

    def tokenize(self, texts: list[str], role: str | None = None) -> list[list[int]]:
        """See :meth:`TextTokenizer.tokenize`; here every text needs a role."""
        return self._of(role).tokenize(texts, role)

    def tokenize_and_count(self, texts: list[str], role: str | None = None) -> tuple[list[list[int]], int]:
        """See :meth:`TextTokenizer.tokenize_and_count`; here every text needs a role."""
        return self._of(role).tokenize_and_count(texts, role)

    def max_length_of(self, role: str | None) -> int:
        """See :meth:`TextTokenizer.max_length_of`."""
        return self._of(role).max_length_of(role)

    def prompt_tokens(self, role: str | None = None) -> int:
        """See :meth:`TextTokenizer.prompt_tokens`."""
        return self._of(role).prompt_tokens(role)

    @property
    def roles(self) -> list[str]:
        """Those of the towers, and others with a prompt or a length of their own."""
        return list(dict.fromkeys([QUERY, DOCUMENT_NAMES[0], *self.document.roles]))

    @property
    def fingerprint(self) -> str:
        """A sha256 of all that decides which ids a text gets, in any role."""
        return hashlib.sha256(f"{self.query.fingerprint}\n{self.document.fingerprint}".encode()).hexdigest()

    def _of(self, role: str | None) -> TextTokenizer:
        if role is None:
            raise ValueError(NO_ROLE)
        return self.query if role == QUERY else self.document
