"""Modules of sentence-transformers for encoders that it has no modules of its own for.

``lit_metric.export`` copies this file into a folder as ``lit_metric_modules.py``, and
``SentenceTransformer(folder, trust_remote_code=True)`` runs it there. It needs torch, transformers and
sentence-transformers 6, and nothing of lit-metric.

An item of several texts, such as tags, is a list of them, or one string in which " | " stands between them:
``"web | http \\| https"`` has the texts ``web`` and ``http | https``; see :func:`split_texts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import InputModule, Module, Router, Transformer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

SEPARATOR = " | "
_SET = ("set_texts", "set_lengths")
_LEARNED = ("attention", "conjunction", "composed")


def join_texts(texts: Sequence[str]) -> str:
    r"""The texts of an item as one string, which :func:`split_texts` reads.

    " | " stands between them. A "|" or a backslash within a text gets a backslash before it. A single
    backslash is an item of one empty text; the empty string is an item without texts.

    Example:
        >>> print(join_texts(["web", "http | https"]))
        web | http \| https
    """
    if list(texts) == [""]:
        return "\\"
    return SEPARATOR.join(re.sub(r"([\\|])", r"\\\1", text) for text in texts)


def split_texts(item: str) -> list[str]:
    r"""The texts of an item that :func:`join_texts` wrote, or a person.

    A "|" without a space on both sides is a part of its text, with a backslash or without.

    Example:
        >>> split_texts("web | http \\| https | a|b")
        ['web', 'http | https', 'a|b']
    """
    if "\\" not in item:
        return item.split(SEPARATOR) if item else []
    texts = [""]
    for token in re.finditer(r"\\(.?)| \| |[^\\ ]+|.", item, re.DOTALL):
        if token[0] == SEPARATOR:
            texts.append("")
        else:
            texts[-1] += token[0] if token[1] is None else token[1]
    return texts


class TextInput(InputModule):
    """A backbone, and what happens to texts before it.

    Args:
        backbone: a Transformer or a :class:`TokenTable`.
        sets: whether an item has several texts; each distinct text of a batch is encoded once.
        replacements: strings to be replaced in texts, before their prompt, one after the other.
        max_lengths: tokens to which texts are cut, by the ``task`` given to ``encode``.
    """

    config_file_name = "lit_metric_input.json"
    config_keys: list[str] = ["sets", "replacements", "max_lengths"]  # noqa: RUF012

    def __init__(
        self,
        backbone: Transformer | TokenTable,
        sets: bool = False,
        replacements: dict[str, str] | None = None,
        max_lengths: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer: Any = backbone.tokenizer
        self.sets = sets
        self.replacements = dict(replacements or {})
        self.max_lengths = dict(max_lengths or {})

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Token ids of the texts, and which texts an item has."""
        texts, places, lengths = list(inputs), [], []
        if self.sets:
            distinct: dict[str, int] = {}
            for item in inputs:
                own = split_texts(item) if isinstance(item, str) else list(item)
                places += [distinct.setdefault(text, len(distinct)) for text in own]
                lengths.append(len(own))
            texts = list(distinct) or [""]
        for old, new in self.replacements.items():
            texts = [text.replace(old, new) for text in texts]
        if (length := self.max_lengths.get(kwargs.get("task") or "")) is not None:
            kwargs.setdefault("max_length", length)
        features = self.backbone.preprocess(texts, prompt=prompt, **kwargs)
        if self.sets:
            features["set_texts"] = torch.tensor(places, dtype=torch.long)
            features["set_lengths"] = torch.tensor(lengths, dtype=torch.long)
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Token states of the distinct texts."""
        given = {name: value for name, value in features.items() if name not in _SET}
        return {**self.backbone(given, **kwargs), **{n: features[n] for n in _SET if n in features}}

    @property
    def max_seq_length(self) -> int | None:
        """Tokens to which texts are cut."""
        return self.backbone.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.backbone.max_seq_length = value

    def get_embedding_dimension(self) -> int:
        """Components of a token's state."""
        return self.backbone.get_embedding_dimension()

    def get_config_dict(self) -> dict[str, Any]:
        """What :meth:`load` reads."""
        return {**super().get_config_dict(), "backbone": type(self.backbone).__name__}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the backbone and the settings."""
        self.backbone.save(output_path, *args, **kwargs)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> TextInput:  # type: ignore[override]
        """Read what :meth:`save` wrote."""
        hub = {name: kwargs[name] for name in _HUB if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder, **hub)
        kind = {"Transformer": Transformer, "TokenTable": TokenTable}[config.pop("backbone")]
        return cls(kind.load(model_name_or_path, subfolder=subfolder, **kwargs), **config)


class TokenTable(InputModule):
    """A table of token vectors in the place of a transformer: a token's state is its row.

    Args:
        weight: ``[rows, h]``, by token id.
        tokenizer: its special tokens are not used.
        max_length: tokens to which texts are cut.
        lower_case: lower-case texts and prompts first.
    """

    def __init__(
        self,
        weight: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        lower_case: bool = False,
        **described: Any,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.tokenizer: Any = tokenizer
        self.max_seq_length = max_length
        self.lower_case = lower_case
        self.described = described

    def preprocess(  # type: ignore[override]
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Padded token ids, ``[n, length]``."""
        texts = [(prompt or "") + text for text in inputs]
        if self.lower_case:
            texts = [text.lower() for text in texts]
        rows = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=max_length or self.max_seq_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(max(map(len, rows), default=0)) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.tensor([each for row in rows for each in row], dtype=torch.long)
        return {"input_ids": ids, "attention_mask": mask.long()}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The rows of the tokens."""
        features["token_embeddings"] = self.embedding(features["input_ids"])
        return features

    def get_embedding_dimension(self) -> int:
        """Components of a row."""
        return self.embedding.embedding_dim

    def get_config_dict(self) -> dict[str, Any]:
        """What describes the table."""
        own = {"max_length": self.max_seq_length, "lower_case": self.lower_case}
        return {**self.described, **own}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write table, tokenizer and settings."""
        self.save_torch_weights(output_path)
        self.save_config(output_path)
        self.save_tokenizer(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> TokenTable:  # type: ignore[override]
        """Read what :meth:`save` wrote."""
        hub = {name: kwargs[name] for name in _HUB if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder, **hub)
        # A copy, as the file may be mapped into memory, and written again.
        weight = cls.load_torch_weights(model_name_or_path, subfolder, **hub)["embedding.weight"].clone()
        hub["cache_dir"] = hub.pop("cache_folder", None)
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, subfolder=subfolder, **hub)
        return cls(weight, tokenizer, **config)


class SegmentPooling(Module):
    """From the states of a text's tokens, or the vectors of an item's texts, to one vector.

    A row without values becomes the zero vector, unless ``empty`` is "learned".

    Args:
        mode: "mean", "cls" (the first), "max", "lasttoken", "attention", "conjunction" (a weighted mean over
            all pairs of states), or "composed" (the first state with the changes of the others).
        dimension: of the states; of longer ones, the leading components are used.
        level: "tokens" pools the states of a text's tokens, "texts" the vectors of an item's texts.
        include_prompt: whether the tokens of a prompt are pooled.
        normalize: bring states to length 1 first.
        heads: of attention and conjunction, each of which weighs its own slice of the components.
        score: of attention: "feedforward" is ``v^T tanh(W x + b)``, "dot" is ``q^T x / sqrt(dimension)``.
        hidden: rows of ``W``, or components of keys and of inner layers; ``dimension`` if None.
        empty: "zero", or "learned" for a vector of its own.
        context: whether a score also depends on the mean of the row's other states.
        most_values: of conjunction, the longest row that it takes.
    """

    config_keys: list[str] = [  # noqa: RUF012
        *("mode", "dimension", "level", "include_prompt", "normalize"),
        *("heads", "score", "hidden", "empty", "context", "most_values"),
    ]

    def __init__(
        self,
        mode: str,
        dimension: int,
        level: str = "tokens",
        include_prompt: bool = True,
        normalize: bool = False,
        heads: int = 1,
        score: str = "feedforward",
        hidden: int | None = None,
        empty: str = "zero",
        context: bool = False,
        most_values: int = 32,
    ) -> None:
        super().__init__()
        self.mode, self.dimension, self.level = mode, dimension, level
        self.include_prompt, self.normalize = include_prompt, normalize
        self.heads, self.score, self.hidden = heads, score, hidden
        self.empty, self.context, self.most_values = empty, context, most_values
        width = hidden or dimension
        if mode == "conjunction":
            self.first_key = nn.Linear(dimension, width, bias=False)
            self.second_key = nn.Linear(dimension, width, bias=False)
            self.query = nn.Parameter(torch.zeros(heads, width))
            self.second_value = nn.Linear(dimension, dimension)
        if mode == "composed":
            self.inner, self.outer = nn.Linear(2 * dimension, width), nn.Linear(width, dimension)
        if mode != "attention":
            return
        width = dimension
        if score == "feedforward":
            width = hidden or dimension
            self.inner = nn.Linear(dimension, width)
            if context:
                self.others = nn.Linear(dimension, width, bias=False)
                self.agreement = nn.Linear(dimension, width, bias=False)
        self.query = nn.Parameter(torch.zeros(heads, width))
        if empty == "learned":
            self.empty_vector = nn.Parameter(torch.zeros(dimension))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool the rows into ``sentence_embedding``."""
        values, lengths = self._rows(features)
        values = values[:, : self.dimension]
        kept = values.dtype
        if kept in (torch.float16, torch.bfloat16):
            values = values.float()
        if self.normalize:
            values = nn.functional.normalize(values, dim=1, eps=1e-12)
        features["sentence_embedding"] = self._pool(values, lengths).to(kept)
        return features

    def _rows(self, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """``[total, h]`` states, row after row, and ``[n]``, how many each row has."""
        if self.level == "texts":
            return features["sentence_embedding"][features["set_texts"]], features["set_lengths"]
        states = features["token_embeddings"]
        if "cu_seq_lens_q" in features:  # flash attention without padding
            values, lengths = states[0], features["cu_seq_lens_q"].diff().long()
        else:
            mask = features["attention_mask"].bool()
            values, lengths = states[mask], mask.sum(1)
        prompt = features.get("prompt_length")
        if self.include_prompt or prompt is None:
            return values, lengths
        prompt = int(prompt.reshape(-1)[0]) if isinstance(prompt, Tensor) else int(prompt)
        starts = lengths.cumsum(0) - lengths
        places = torch.arange(len(values), device=values.device) - starts.repeat_interleave(lengths)
        return values[places >= prompt], (lengths - prompt).clamp(min=0)

    def _pool(self, values: Tensor, lengths: Tensor) -> Tensor:
        rows = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)  # [total]
        zeros = values.new_zeros(len(lengths), values.shape[1])
        if not len(values):
            pooled = zeros
        elif self.mode in ("cls", "lasttoken"):
            ends = lengths.cumsum(0)
            places = ends - lengths if self.mode == "cls" else ends - 1
            pooled = values[places.clamp(0, len(values) - 1)]
        elif self.mode == "max":
            index = rows[:, None].expand_as(values)
            pooled = zeros.scatter_reduce(0, index, values, "amax", include_self=False)
        elif self.mode == "mean":
            pooled = zeros.index_add(0, rows, values) / lengths.clamp(min=1)[:, None]
        elif self.mode == "conjunction":
            pooled = self._conjunction(values, lengths)
        elif self.mode == "composed":
            pooled = self._composed(values, rows, lengths)
        else:
            weights = self._weights(values, rows, lengths)
            weighted = (values.unflatten(1, (self.heads, -1)) * weights[:, :, None]).flatten(1)
            pooled = zeros.index_add(0, rows, weighted)
        pooled = pooled.masked_fill((lengths == 0)[:, None], 0)
        if self.mode == "attention" and self.empty == "learned":
            pooled = torch.where((lengths == 0)[:, None], self.empty_vector.to(pooled.dtype), pooled)
        return pooled

    def _conjunction(self, values: Tensor, lengths: Tensor) -> Tensor:
        """``[n, h]``: the products of each two states of a row, weighted over all its pairs."""
        longest = int(lengths.max())
        if longest > self.most_values:
            raise ValueError(
                f"this model compares all pairs, and takes at most {self.most_values} texts of an item; "
                f"one has {longest}. Leave some out"
            )
        present = torch.arange(longest, device=values.device) < lengths[:, None]
        states = values.new_zeros(*present.shape, values.shape[1])
        states[present] = values
        given = states.to(self.query.dtype)
        keys = self.first_key(given)[:, None] * self.query[:, None]  # [n, heads, longest, hidden]
        scores = (keys @ self.second_key(given)[:, None].transpose(2, 3)).to(values.dtype)
        pairs = (present[:, :, None] & present[:, None, :])[:, None].expand_as(scores)
        scores = scores.masked_fill(~pairs, torch.finfo(scores.dtype).min)
        weights = scores.flatten(2).softmax(2).view_as(scores).masked_fill(~pairs, 0)
        partners = self.second_value(given).to(values.dtype)
        own, others = (
            each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (states, partners)
        )  # [n, heads, longest, h / heads]
        return (own * (weights @ others)).sum(2).flatten(1)

    def _composed(self, values: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """``[n, h]``: a row's first state, with each of the others and what it changes; all of length 1."""
        unit = nn.functional.normalize(values, dim=1, eps=1e-12)
        starts = (lengths.cumsum(0) - lengths)[rows]  # [total]
        read = torch.cat([unit[starts], unit], dim=1).to(self.inner.weight.dtype)
        change = self.outer(nn.functional.gelu(self.inner(read))).to(values.dtype)
        is_edit = (torch.arange(len(values), device=values.device) > starts)[:, None]
        return values.new_zeros(len(lengths), values.shape[1]).index_add(0, rows, unit + change * is_edit)

    def _weights(self, values: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """``[total, heads]``, which sum to 1 over each row."""
        kind = self.query.dtype
        if self.score == "dot":
            scores = values.to(kind) @ self.query.T * self.query.shape[1] ** -0.5
        elif not self.context:
            scores = torch.tanh(self.inner(values.to(kind))) @ self.query.T
        else:
            plain = nn.functional.layer_norm(values, values.shape[1:])
            sums = plain.new_zeros(len(lengths), plain.shape[1]).index_add(0, rows, plain)
            others = (sums[rows] - plain) / (lengths - 1).clamp(min=1)[rows][:, None]
            plain, others = plain.to(kind), others.to(kind)
            inner = self.inner(plain) + self.others(others) + self.agreement(plain * others)
            scores = torch.tanh(inner) @ self.query.T
        scores = scores.to(values.dtype)
        index = rows[:, None].expand_as(scores)
        largest = scores.new_zeros(len(lengths), self.heads)
        largest = largest.scatter_reduce(0, index, scores, "amax", include_self=False)
        powers = (scores - largest[rows]).exp()
        return powers / torch.zeros_like(largest).index_add(0, rows, powers)[rows]

    def get_embedding_dimension(self) -> int:
        """Components of a vector."""
        return self.dimension

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write settings, and weights if there are any."""
        self.save_config(output_path)
        if self.mode in _LEARNED:
            weights = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
            save_file(weights, Path(output_path, "model.safetensors"))

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> SegmentPooling:
        """Read what :meth:`save` wrote."""
        hub = {name: kwargs[name] for name in _HUB if name in kwargs}
        module = cls(**cls.load_config(model_name_or_path, subfolder, **hub))
        if module.mode in _LEARNED:
            module.load_state_dict(cls.load_torch_weights(model_name_or_path, subfolder, **hub))
        return module


class Towers(Router):
    """A Router of query and document towers that are built of modules of this file."""

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the towers, and name their classes so that they are found in the folder again."""
        super().save(output_path, safe_serialization=safe_serialization, **kwargs)
        path = Path(output_path, self.config_file_name)
        config = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in config["types"].items():
            if kind.startswith("transformers_modules."):
                config["types"][name] = ".".join(kind.split(".")[-2:])
        path.write_text(json.dumps(config, indent=4), encoding="utf-8")


_HUB = ("token", "cache_folder", "revision", "local_files_only")
