"""Static models made of trained encoders: a vector for each token, reduced and weighed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders.base import Encoder
from lit_metric.encoders.packing import evaluating
from lit_metric.encoders.recompute import length_chunks
from lit_metric.encoders.static import MAX_LENGTH, StaticBackbone, StaticEncoder
from lit_metric.encoders.text import TextEncoder
from lit_metric.encoders.tokenizer import TextTokenizer

UNUSED = re.compile(r"\[unused\d+\]")
"""Tokens of BERT that no text has."""


def distill(
    encoder: Encoder,
    folder: str | Path,
    dimension: int | None = 256,
    sif: float | None = 1e-4,
    max_tokens: int = 16384,
) -> StaticEncoder:
    """Make a static model of a trained encoder: encode each token of its vocabulary alone, reduce the vectors
    by PCA, and weigh them by how rare the tokens are.

    A token's frequency is estimated by Zipf's law from its place in the vocabulary, ``p(i)`` in proportion to
    ``1 / (i + 2)`` for ``i = 0, 1, …``, and its weight is ``sif / (sif + p)``. Special tokens and
    ``[unusedN]`` have no place there, and a row of 0.

    Args:
        encoder: a TextEncoder; its pooling, projection and tokenizer are used, and no prompt.
        folder: to write, as :meth:`StaticBackbone.save` does. ``StaticEncoder(folder)`` and
            ``lit_metric.load(folder)`` read it.
        dimension: components to keep, at most those of the encoder. None: no PCA; then the vectors stay in
            the space of the encoder.
        sif: the coefficient of the weights, in (0, 1); None: all weights are 1.
        max_tokens: tokens encoded together.

    Returns:
        the static model.

    Raises:
        TypeError: if the encoder isn't a TextEncoder with a transformer.
        ValueError: if ``dimension`` or ``sif`` is out of range.

    Source: Tulkens and van Dongen 2024, Model2Vec (https://github.com/MinishLab/model2vec); the weights are
    those of Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings".
    """
    if not isinstance(encoder, TextEncoder) or isinstance(encoder, StaticEncoder):
        tower = ": distill its text tower, encoder.text" if hasattr(encoder, "text") else ""
        raise TypeError(
            f"a static model is made of a TextEncoder with a transformer, not of a "
            f"{type(encoder).__name__}{tower}"
        )
    if dimension is not None and not 1 <= dimension <= encoder.dimension:
        raise ValueError(f"dimension is {dimension}; the encoder has {encoder.dimension} components")
    if sif is not None and not 0 < sif < 1:
        raise ValueError(f"sif is {sif}; it has to be greater than 0 and less than 1")
    tokenizer = encoder.tokenizer
    vocabulary = tokenizer.tokenizer.get_vocab()
    ids = sorted(
        number
        for token, number in vocabulary.items()
        if number not in tokenizer.special_ids and not UNUSED.fullmatch(token)
    )
    if dimension is not None and len(ids) <= dimension:
        raise ValueError(f"dimension is {dimension}, and the vocabulary has only {len(ids)} tokens")
    # What the tokenizer puts around a text, such as [CLS] and [SEP].
    around = tokenizer.tokenizer("a", return_attention_mask=False)["input_ids"]
    inner = [place for place, number in enumerate(around) if number not in tokenizer.special_ids] or [1]
    start, end = around[: inner[0]], around[inner[-1] + 1 :]
    texts = Ragged.from_lists([[*start, number, *end] for number in ids])
    vectors = torch.empty(len(ids), encoder.dimension)
    with evaluating(encoder), torch.inference_mode():
        for chunk in length_chunks(texts.lengths, max_tokens):
            inputs = EncoderInput.of_texts(texts.select(chunk)).to(encoder.device)
            vectors[chunk] = encoder.embed(inputs).float().cpu()
    if dimension is not None:
        vectors = _principal_components(vectors, dimension)
    if sif is not None:
        chances = 1 / torch.arange(2, len(ids) + 2, dtype=torch.float64)
        chances /= chances.sum()
        vectors *= (sif / (sif + chances)).float()[:, None]
    table = torch.zeros(max(vocabulary.values()) + 1, vectors.shape[1])
    table[ids] = vectors
    settings: dict[str, Any] = {"lower_case": tokenizer.lower_case, "replacements": tokenizer.replacements}
    plain = TextTokenizer(tokenizer.tokenizer, MAX_LENGTH, special_tokens=False, **settings)
    StaticBackbone(table, plain).save(Path(folder))
    return StaticEncoder(str(folder))


def _principal_components(vectors: Tensor, dimension: int) -> Tensor:
    """``[n, dimension]``: the vectors, less their mean, along the directions in which they vary most. The
    largest number of each component is positive, as the sign of a direction is arbitrary."""
    centred = vectors.double() - vectors.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    found = centred @ directions.flip(1)[:, :dimension]
    return (found * found.gather(0, found.abs().argmax(0)[None]).sign()).float()
