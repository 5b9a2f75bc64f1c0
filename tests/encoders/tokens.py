"""A tokenizer of a few words, and folders with tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.encoders.models import VOCABULARY, make

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]


def word_tokenizer(limit: int = 64, words: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """Words ``w4`` to ``w59``, or others, are the tokens from 4 on; texts stand between [CLS] and [SEP]."""
    words = [*SPECIAL, *(words or [f"w{number}" for number in range(len(SPECIAL), VOCABULARY)])]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=limit,
    )


def model_folder(
    folder: Path, family: str = "bert", dropout: float = 0.0, words: Sequence[str] | None = None
) -> str:
    """An ordinary Hugging Face folder with a tiny model that knows ``words``, or ``w4`` to ``w59``."""
    size = {} if words is None else {"vocab_size": len(SPECIAL) + len(words)}
    make(family, dropout, **size).save_pretrained(folder)
    word_tokenizer(words=words).save_pretrained(folder)
    return str(folder)
