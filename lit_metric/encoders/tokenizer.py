"""A Hugging Face tokenizer as the data part wants it: texts in, lists of token ids out, and a fingerprint."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lit_metric.encoders.positions import positions

T = TypeVar("T")

QUERY = "query"
"""The role of what searches."""

DOCUMENT_NAMES = ("document", "passage", "corpus")
"""Names of the role "document", in the order in which they count."""

NO_ROLE = (
    "a query tower and a document tower encode items by their role, but these have none: say which are "
    "queries and which are documents, or train one encoder for both with MetricLearner"
)

HUGE = 10**6
"""Tokenizers that know no limit say so with a number beyond all reason."""


class TextTokenizer:
    """Tokenises whole texts, prompt and special tokens included.

    A text may have a role, such as "query" or "document", with a prompt and a length of its own. A role that
    nothing is said of is encoded as texts without a role are; as in sentence-transformers, the role
    "document" also goes by the names "passage" and "corpus".

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: texts are cut to so many tokens, special ones included.
        prompt: put before every text.
        lower_case: lower-case texts, and the prompt, first.
        replacements: strings to be replaced in texts before anything else, one after the other in this order.
        prompts: by role, instead of ``prompt``.
        max_lengths: by role, instead of ``max_length``.
        pool_prompt: whether poolings see a prompt's tokens; without, they and what the tokenizer puts before
            them, such as [CLS], are kept out, as by ``include_prompt=False`` in sentence-transformers.

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

    def prompt_of(self, role: str | None) -> str:
        """What is put before a text in this role."""
        return of_role(self.prompts, role, self.prompt)

    def max_length_of(self, role: str | None) -> int:
        """To how many tokens a text in this role is cut."""
        return of_role(self.max_lengths, role, self.max_length)

    @property
    def roles(self) -> list[str]:
        """The roles that something is said of, under all their names."""
        said = dict.fromkeys([*self.prompts, *self.max_lengths])
        if any(name in said for name in DOCUMENT_NAMES):
            said[DOCUMENT_NAMES[0]] = None
        return list(said)

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

    def prompt_tokens(self, role: str | None = None) -> int:
        """How many leading tokens of a text in this role poolings are not to see: those of its prompt, unless
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
        parts = [self._content(), self.max_length, self.prompt, self.lower_case, [*self.replacements.items()]]
        prompts = {role: prompt for role, prompt in self.prompts.items() if prompt != self.prompt}
        lengths = {role: length for role, length in self.max_lengths.items() if length != self.max_length}
        if prompts or lengths:
            parts += [prompts, lengths]
        content = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def _content(self) -> Any:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = json.loads(backend.to_str())
            # calls change these two, and every call here says what it wants
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
        """Write the tokenizer's files; with ``pad``, one without a padding token gets one that it has for
        something else."""
        tokenizer = self.tokenizer
        if pad and tokenizer.pad_token is None:
            tokenizer = copy.deepcopy(tokenizer)
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

    def max_length_of(self, role: str | None) -> int:
        """See :meth:`TextTokenizer.max_length_of`."""
        return self._of(role).max_length_of(role)

    def prompt_tokens(self, role: str | None = None) -> int:
        """See :meth:`TextTokenizer.prompt_tokens`."""
        return self._of(role).prompt_tokens(role)

    @property
    def roles(self) -> list[str]:
        """Those of the towers, and what else something is said of."""
        return list(dict.fromkeys([QUERY, DOCUMENT_NAMES[0], *self.document.roles]))

    @property
    def fingerprint(self) -> str:
        """A sha256 of all that decides which ids a text gets, in any role."""
        return hashlib.sha256(f"{self.query.fingerprint}\n{self.document.fingerprint}".encode()).hexdigest()

    def _of(self, role: str | None) -> TextTokenizer:
        if role is None:
            raise ValueError(NO_ROLE)
        return self.query if role == QUERY else self.document


def of_role(values: Mapping[str, T], role: str | None, default: T) -> T:
    """What ``values`` say of a role, under any of its names.

    Example:
        >>> of_role({"passage": "passage: "}, "document", ""), of_role({"query": "query: "}, "title", "")
        ('passage: ', '')
    """
    if role is None:
        return default
    names = DOCUMENT_NAMES if role == DOCUMENT_NAMES[0] else (role,)
    return next((values[name] for name in names if name in values), default)


def load_tokenizer(
    path: str,
    model: PreTrainedModel,
    max_length: int | None,
    options: dict[str, Any],
    **settings: Any,
) -> TextTokenizer:
    """Load the tokenizer that lies beside ``model``.

    Args:
        path: a folder or a Hugging Face id.
        model: says how many positions there are.
        max_length: None means what tokenizer and model allow.
        options: of ``AutoTokenizer.from_pretrained``.
        settings: the other arguments of :class:`TextTokenizer`.

    Raises:
        ValueError: if a length is more than the model has positions for, or the tokenizer has tokens that the
            model has no embedding of.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
    _check_vocabulary(tokenizer, model, path)
    limit = positions(model)
    for role, length in (settings.get("max_lengths") or {}).items():
        if limit is not None and length > limit:
            raise ValueError(
                f"max_lengths: {role!r} has {length}, but {path} has positions for {limit} tokens only"
            )
    if max_length is None:
        said = int(tokenizer.model_max_length) if tokenizer.model_max_length else HUGE
        max_length = min(said, limit if limit is not None else HUGE)
        max_length = 512 if max_length >= HUGE else max_length
    elif limit is not None and max_length > limit:
        raise ValueError(f"max_length is {max_length}, but {path} has positions for {limit} tokens only")
    return TextTokenizer(tokenizer, max_length, **settings)


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: str) -> None:
    table: Any = model.get_input_embeddings().weight
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= len(table)}
    if beyond:
        first = min(beyond, key=lambda token: beyond[token])
        raise ValueError(
            f"{path}: the tokenizer has token {first!r} with id {beyond[first]}, but the model's table of "
            f"embeddings has {len(table)} rows (tokens beyond it: {len(beyond)}): tokens were added "
            f"after it was trained, or the tokenizer is another model's. Save the model after "
            f"`model.resize_token_embeddings({max(beyond.values()) + 1})`, or take its own tokenizer"
        )
