"""A Hugging Face tokenizer as the data part wants it: texts in, lists of token ids out, and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HUGE = 10**6
"""Tokenizers that know no limit say so with a number beyond all reason."""


class TextTokenizer:
    """Tokenises whole texts, prompt and special tokens included.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: texts are cut to so many tokens, special ones included.
        prompt: put before every text.
        lower_case: lower-case texts, and the prompt, first.
        replacements: strings to be replaced in texts before anything else, one after the other in this order.

    Raises:
        ValueError: if ``max_length`` is below 1, or the empty string is to be replaced.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        prompt: str = "",
        lower_case: bool = False,
        replacements: dict[str, str] | None = None,
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; a text needs at least one token")
        if replacements and "" in replacements:
            raise ValueError("replacements: the empty string can't be replaced; name what should be")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = prompt
        self.lower_case = lower_case
        self.replacements = dict(replacements or {})

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, at most ``max_length`` of them."""
        if not texts:
            return []
        for old, new in self.replacements.items():
            texts = [text.replace(old, new) for text in texts]
        texts = [self.prompt + text for text in texts]
        if self.lower_case:
            texts = [text.lower() for text in texts]
        encoded = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return encoded["input_ids"]

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of all that decides which ids a text gets."""
        content = json.dumps(
            [self._content(), self.max_length, self.prompt, self.lower_case, [*self.replacements.items()]],
            sort_keys=True,
            ensure_ascii=False,
        )
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

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)


def load_tokenizer(
    path: str,
    model: PreTrainedModel,
    max_length: int | None,
    prompt: str,
    lower_case: bool,
    replacements: dict[str, str] | None,
    options: dict[str, Any],
) -> TextTokenizer:
    """Load the tokenizer that lies beside ``model``; ``max_length`` None means what tokenizer and model
    allow.

    Raises:
        ValueError: if ``max_length`` is more than the model has positions for.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
    limit = positions(model)
    if max_length is None:
        said = int(tokenizer.model_max_length) if tokenizer.model_max_length else HUGE
        max_length = min(said, limit if limit is not None else HUGE)
        max_length = 512 if max_length >= HUGE else max_length
    elif limit is not None and max_length > limit:
        raise ValueError(f"max_length is {max_length}, but {path} has positions for {limit} tokens only")
    return TextTokenizer(tokenizer, max_length, prompt, lower_case, replacements)


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens a text may have, None if the model doesn't say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):  # counts from padding_idx + 1
            return limit - int(module.padding_idx) - 1  # type: ignore[arg-type]
    return limit
