"""What a backbone's files say about its size, without reading its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from lit_metric.encoders.packing import max_positions
from lit_metric.encoders.pretrained import locate, quietly
from lit_metric.encoders.recipe import Recipe
from lit_metric.encoders.tokenizer import HUGE, TextTokenizer

AT_ONCE = 1024


@dataclass(frozen=True)
class Sizes:
    """Sizes of a backbone.

    Args:
        tokenizer: of whole texts; None if the backbone can't be read.
        hidden: components of a token state.
        positions: tokens that a text may have; None if there is no limit.
        has_embeddings: whether a part of it is called ``embeddings``.
        problem: why it can't be read.
    """

    tokenizer: TextTokenizer | None = None
    hidden: int = 0
    positions: int | None = None
    has_embeddings: bool = False
    problem: str = ""

    def measure(self, texts: Sequence[str]) -> tuple[np.ndarray, float]:
        """``[n]`` int64, the tokens of each text with special ones, and the share of tokens that the
        tokenizer doesn't know."""
        assert self.tokenizer is not None
        lengths, unknown = [np.empty(0, np.int64)], 0
        for start in range(0, len(texts), AT_ONCE):
            rows = self.tokenizer.tokenize(list(texts[start : start + AT_ONCE]))
            lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
            if (none := self.tokenizer.tokenizer.unk_token_id) is not None:
                unknown += sum(row.count(none) for row in rows)
        found = np.concatenate(lengths)
        return found, unknown / max(int(found.sum()), 1)


def sizes_of(backbone: str) -> Sizes:
    """Read configuration and tokenizer of a backbone.

    Args:
        backbone: a Hugging Face id, a folder, or ``package:NAME/folder``.
    """
    try:
        place = locate(backbone)
        recipe = Recipe.read(place, head=False)
        config = quietly(AutoConfig.from_pretrained, place, subfolder=recipe.subfolder)
        with torch.device("meta"):
            model = quietly(AutoModel.from_config, config)
        own = AutoTokenizer.from_pretrained(place, subfolder=recipe.subfolder)
        tokenizer = TextTokenizer(own, HUGE, recipe.prompt, recipe.lower_case)
    except (OSError, ValueError, ImportError) as error:
        return Sizes(problem=str(error).splitlines()[0])
    hidden = int(config.get_text_config().hidden_size)
    return Sizes(tokenizer, hidden, max_positions(model), hasattr(model, "embeddings"))
