"""A trained encoder as a model of ``mteb``, the benchmark of text embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.tokenizer import QUERY, TextTokenizer
from lit_metric.hub import load


class MTEBEncoder:
    """An encoder with the interface ``mteb.EncoderProtocol``, for ``mteb.evaluate``.

    Queries and documents of a retrieval task get the roles ``"query"`` and ``"document"``, if the encoder
    knows these; texts of other tasks have no role. Needs ``pip install mteb``::

        import mteb
        from lit_metric.mteb import MTEBEncoder

        results = mteb.evaluate(MTEBEncoder("runs/questions"), mteb.get_task("Banking77Classification"))

    Args:
        model: an encoder, or what :func:`lit_metric.load` reads.
        revision: of the model, for the results; not used to load it.
        device: where to encode; a GPU if there is one and None is given.
        max_tokens: tokens that are encoded together.
        name: of the model in the results, ``OWNER/NAME``; by default the name of its folder.

    Raises:
        ImportError: without mteb.
        TypeError: for an encoder of sets, as the texts of mteb are single strings.
    """

    def __init__(
        self,
        model: Encoder | str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        max_tokens: int = 16384,
        name: str | None = None,
    ) -> None:
        try:
            from mteb.models import ModelMeta
        except ImportError as error:
            raise ImportError("MTEBEncoder needs mteb: pip install mteb") from error
        encoder = model if isinstance(model, Encoder) else load(model)
        towers = [encoder.query, encoder.document] if isinstance(encoder, TwoTowerEncoder) else [encoder]
        if any(isinstance(tower, SetEncoder) for tower in towers):
            raise TypeError("the texts of mteb are single strings, and a SetEncoder takes lists of texts")
        if device is not None or not isinstance(model, Encoder):
            encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.encoder = encoder
        self.max_tokens = max_tokens
        known = name or ("model" if isinstance(model, Encoder) else Path(model).name or "model")
        tokenizer = encoder.tokenizer
        described: dict[str, Any] = {
            "name": known if "/" in known else f"lit-metric/{known}",
            "revision": revision or "unknown",
            "n_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "max_tokens": tokenizer.max_length if isinstance(tokenizer, TextTokenizer) else None,
            "embed_dim": encoder.dimension,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine" if encoder.normalize else "dot",
            "use_instructions": QUERY in tokenizer.roles,
        }
        self.mteb_model_meta = ModelMeta.create_empty(described)
        """What the results say of the model."""

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        prompt_type: Any = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Embed batches of texts.

        Args:
            inputs: batches with a list of strings under ``"text"``.
            prompt_type: ``query``, ``document`` or None.
            show_progress_bar: whether to show one.
            options: of the task, which this encoder doesn't need.

        Returns:
            float32 ``[n, dimension]``.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        role = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        role = role if role in self.encoder.tokenizer.roles else None
        return self.encoder.encode(texts, self.max_tokens, show_progress_bar, role=role)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """``[n, m]`` cosines of two arrays of vectors; inner products if the encoder doesn't normalise."""
        first, second = self._rows(embeddings1), self._rows(embeddings2)
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """``[n]`` similarities of the vectors at the same place in two arrays."""
        return (self._rows(embeddings1) * self._rows(embeddings2)).sum(dim=1)

    def _rows(self, vectors: Any) -> torch.Tensor:
        rows = torch.atleast_2d(torch.as_tensor(vectors).float())
        return normalize(rows, dim=1) if self.encoder.normalize else rows
