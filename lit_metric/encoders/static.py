"""An encoder without a transformer: a table with one vector for each token, pooled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.backbone import Backbone, Packing
from lit_metric.encoders.pooling import AttentionPooling, MeanPooling, Pooling, Projection, drop_values
from lit_metric.encoders.pretrained import given_weights, load_model, locate, quietly, resolve
from lit_metric.encoders.recipe import STATIC, Recipe, find_file
from lit_metric.encoders.segments import take_rows
from lit_metric.encoders.text import TextEncoder
from lit_metric.encoders.tokenizer import HUGE, TextTokenizer

WEIGHTS = "model.safetensors"
TABLE = "embedding.weight"
"""The name of the table in a file of sentence-transformers, which is also used here."""

MAX_LENGTH = 512
"""Tokens per text where neither an argument nor the source limits them; a table has no positions."""


class TokenTable(nn.Embedding):
    """One vector for each token, ``[rows, dimension]``.

    An optimizer of this library changes only the rows of tokens that were trained on; see
    :class:`~lit_metric.modules.row_adamw.RowAdamW`.

    Args:
        vectors: initial values, which become the parameter.
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__(len(vectors), vectors.shape[1], _weight=vectors)


class StaticBackbone(Backbone):
    """A table of token vectors in the place of a transformer; a token's state is its row.

    Args:
        vectors: float32 ``[rows, h]``, by token id; rows beyond the last token are left out.
        tokenizer: without special tokens.
        dropout: in training, leave out each token of a text with this probability, but never all of them.
        name: what to call the source in messages.

    Raises:
        ValueError: if ``dropout`` is not in [0, 1) or a token has no row.
    """

    def __init__(
        self, vectors: Tensor, tokenizer: TextTokenizer, dropout: float = 0.0, name: str = "the table"
    ) -> None:
        nn.Module.__init__(self)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it has to be at least 0 and less than 1")
        vocabulary = tokenizer.tokenizer.get_vocab()
        last = max(vocabulary, key=vocabulary.__getitem__)
        if vocabulary[last] >= len(vectors):
            raise ValueError(
                f"{name}: the tokenizer has token {last!r} with id {vocabulary[last]}, but the table has "
                f"{len(vectors)} rows: take the tokenizer that belongs to the table"
            )
        self.model = TokenTable(vectors[: vocabulary[last] + 1].clone())  # type: ignore[assignment]
        self.tokenizer = tokenizer
        self.hidden_size = vectors.shape[1]
        self.dropout = dropout
        self.way, self.unused = "packed", ()

    @classmethod
    def recipe(cls, source: str, head: bool = True) -> Recipe:
        """See :meth:`Backbone.recipe`; of a transformer, only case and place, as the rest is about its
        outputs."""
        recipe = Recipe.read(source, head=False)
        if recipe.static:
            return Recipe.read(source, head)
        return Recipe(subfolder=recipe.subfolder, lower_case=recipe.lower_case)

    @classmethod
    def load(
        cls,
        source: str,
        max_length: int | None = None,
        dropout: float | None = None,
        packing: Packing = "auto",
        trust_remote_code: bool = False,
        subfolder: str = "",
        adapter: dict[str, Any] | None = None,
        **tokenizing: Any,
    ) -> StaticBackbone:
        """Read a static model, or the input embeddings of a transformer, from safetensors, as float32.

        Args:
            source: a Hugging Face id, a folder, or ``package:NAME/folder``: a model of model2vec, one of
                sentence-transformers that begins with StaticEmbedding, what :meth:`save` or
                :func:`distill` wrote, or a transformer.
            max_length: tokens per text; what the source says if None, else 512.
            dropout: see :class:`StaticBackbone`; 0 if None.
            packing: has no effect.
            trust_remote_code: run model code that comes with the weights.
            subfolder: of the source.
            adapter: None, as a table takes none.
            tokenizing: prompts and the like; see :class:`~lit_metric.encoders.TextTokenizer`.

        Raises:
            FileNotFoundError: if there is no such model, or it has no safetensors weights.
            ValueError: if weights are missing, the tokenizer is another model's, or an adapter is given.
        """
        if adapter is not None:
            raise ValueError(f"{source}: a table of token vectors takes no adapter: leave it out")
        path = locate(source)
        if Recipe.read(path, head=False).static:
            tokenizer = _static_tokenizer(path, subfolder, trust_remote_code)
            vectors = _static_table(path, subfolder, tokenizer)
            if max_length is None:
                limit = tokenizer.backend_tokenizer.truncation if tokenizer.is_fast else None
                max_length = limit["max_length"] if limit else HUGE
        else:
            place, options = resolve(source, subfolder)
            options["trust_remote_code"] = trust_remote_code
            model, missing = load_model(source, place, options)
            table: Any = model.get_input_embeddings().weight
            if any(value is table and name in missing.names for name, value in model.named_parameters()):
                missing.refuse(source, ())
            vectors = table.detach()
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
        settings = {"special_tokens": False, **tokenizing}
        return cls(
            vectors,
            TextTokenizer(tokenizer, MAX_LENGTH if max_length is None else max_length, **settings),
            dropout or 0.0,
            source,
        )

    @property
    def table(self) -> TokenTable:
        """The vectors, ``table.weight [rows, h]``."""
        table: Any = self.model
        assert isinstance(table, TokenTable)
        return table

    def freeze_unused(self) -> None:
        """Nothing: each row is the state of its token."""

    def forward(self, tokens: Ragged) -> Ragged:
        """``[T]`` token ids to ``[T, h]`` states; in training with ``dropout``, of fewer tokens."""
        if self.training and self.dropout:
            tokens = drop_values(tokens, self.dropout)
        if not (torch.is_grad_enabled() and self.table.weight.requires_grad):
            return Ragged(self.table(tokens.values), tokens.offsets)
        # A batch repeats its tokens, so the gradient of the table has fewer rows than the batch has tokens.
        ids, places = tokens.values.unique(return_inverse=True)
        return Ragged(take_rows(self.table(ids), places), tokens.offsets)

    def save(self, folder: Path, weights: bool = True, pad: bool = False, merge: bool = False) -> None:
        """Write a folder that :meth:`load` reads, and so does StaticEmbedding of sentence-transformers.

        Args:
            folder: is created.
            weights: without them, the folder only describes the table.
            pad: has no effect, as nothing is padded.
            merge: has no effect, as a table takes no adapter.
        """
        folder.mkdir(parents=True, exist_ok=True)
        table = self.table.weight
        content = {
            "model_type": STATIC,
            "rows": len(table),
            "dimension": self.hidden_size,
            "max_length": self.tokenizer.max_length,
            "lower_case": self.tokenizer.lower_case,
            "replacements": self.tokenizer.replacements,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        if weights:
            save_file({TABLE: table.detach().contiguous().cpu()}, folder / WEIGHTS)
        self.tokenizer.save(folder)


class StaticEncoder(TextEncoder):
    """A table of token vectors, pooling, projection: a shallow network for items of a few words.

    A text's tokens know nothing of each other, so word order has no effect. In return, training and encoding
    are tens of times as fast as with a small transformer. The learning rate is far higher than that of a
    transformer: 3e-3 to 3e-2.

    Args:
        backbone: a Hugging Face id, a folder, or ``package:NAME/folder`` inside an installed package. Of a
            transformer, the table of input embeddings and the tokenizer are taken. It can also be a model of
            model2vec, or one of sentence-transformers that begins with StaticEmbedding, each with its
            normalisation, or what :func:`~lit_metric.encoders.distill` wrote.
        pooling: from token vectors to one vector; the mean if None.
        projection: components of a linear layer after the pooling, or ready layers; after the source's own.
        hidden: components of a further layer with GELU before that one.
        max_length: tokens per text; longer texts are cut. If None, what the source says, else 512.
        prompt: put before every text; if None, the source's default prompt.
        lower_case: lower-case texts first; if None, what the source says.
        replacements: strings to be replaced in every text before it is tokenised; if None, what the source
            says.
        normalize: whether :meth:`encode` returns vectors of length 1; if None, what the source says, else
            True.
        freeze: whether the table stays as it is.
        dropout: in training, leave out each token of a text with this probability, but never all of them.
        cache_frozen: see :class:`TextEncoder`.
        trust_remote_code: run model code that comes with a transformer's weights.
        prompts: by role ("query", "document", "title", ...), put before texts in that role instead of
            ``prompt``; if None, the source's.
        max_lengths: by role, instead of ``max_length``.
        truncate_dim: keep this number of leading components of each vector, before it is brought to length 1.
            If None, what the source says, else all.

    Special tokens such as [CLS] are not used. The row of the unknown token is 0 in what model2vec or
    :func:`distill` made, so unknown words don't change the direction of a vector before training.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if arguments don't fit each other or the source.

    Source: Tulkens and van Dongen 2024, Model2Vec (https://github.com/MinishLab/model2vec); the pooling of
    Raffel and Ellis 2016, arXiv 1512.08756, may replace its mean.
    """

    backbone_class: ClassVar[type[Backbone]] = StaticBackbone

    def __init__(
        self,
        backbone: str,
        pooling: Pooling | None = None,
        projection: int | Projection | list[Projection] | None = None,
        hidden: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        lower_case: bool | None = None,
        replacements: dict[str, str] | None = None,
        normalize: bool | None = None,
        freeze: bool = False,
        dropout: float = 0.0,
        cache_frozen: bool = True,
        trust_remote_code: bool = False,
        prompts: dict[str, str] | None = None,
        max_lengths: dict[str, int] | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(
            backbone,
            pooling,
            projection,
            hidden,
            max_length,
            prompt,
            lower_case,
            replacements,
            normalize,
            freeze,
            dropout,
            cache_frozen=cache_frozen,
            trust_remote_code=trust_remote_code,
            prompts=prompts,
            max_lengths=max_lengths,
            truncate_dim=truncate_dim,
        )

    def folded(self) -> Tensor | None:
        """A table with the weights of the pooling in it, so that the mean of its rows, the projection and
        normalisation give the vectors of :meth:`encode`.

        Attention weighs a row ``x`` by ``exp(e)``, divided by the sum of these in its text. If the score
        ``e`` depends on ``x`` alone, ``x exp(e)`` stands in the table, and normalisation takes out the sum.
        So there has to be one head, no ``context``, and no bias or activation before the normalisation.

        Returns:
            float32 ``[rows, h]`` on the CPU, or None where there is no such table.
        """
        pooling, layers = self.pooling, [each for each in self.projection if isinstance(each, Projection)]
        assert isinstance(self.backbone, StaticBackbone)
        table = self.backbone.table.weight.detach()
        if type(pooling) is MeanPooling:
            return table.float().cpu()
        linear = all(each.activation == "identity" and not each.bias for each in layers)
        if not isinstance(pooling, AttentionPooling) or type(pooling) is not AttentionPooling:
            return None  # a subclass may weigh in another way
        plain = pooling.heads == 1 and not pooling.context and pooling.empty == "zero"
        if not (plain and linear and self.normalize):
            return None
        with torch.no_grad():
            one = Ragged.from_lengths(table, torch.tensor([len(table)], device=table.device))
            scores = pooling.scores(one).double()
        return (table * (scores - scores.mean()).exp()).float().cpu()

    def _saved_arguments(self) -> dict[str, Any]:
        assert isinstance(self.backbone, StaticBackbone)
        return {**super()._saved_arguments(), "dropout": self.backbone.dropout}


def _static_tokenizer(path: str, subfolder: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a static model: that of transformers if it was saved so, else ``tokenizer.json``."""
    if _file(path, subfolder, "tokenizer_config.json") is not None:
        options = {"subfolder": subfolder, "trust_remote_code": trust_remote_code}
        # Quietly, as transformers doesn't know the type of the model.
        tokenizer: PreTrainedTokenizerBase = quietly(AutoTokenizer.from_pretrained, path, **options)
        return tokenizer
    file = _file(path, subfolder, "tokenizer.json")
    if file is None:
        raise FileNotFoundError(f"{path} is a static model without tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(file)))


def _static_table(path: str, subfolder: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """``[rows, h]`` of a static model, by token id."""
    config = _file(path, subfolder, "config.json")
    described = {} if config is None else json.loads(config.read_text(encoding="utf-8"))
    shape = described.get("rows", 0), described.get("dimension", 0)
    given = given_weights(str(Path(path, subfolder)))
    if given is not None:
        return given["weight"].float()
    if torch.get_default_device().type == "meta":
        return torch.empty(shape)
    file = _file(path, subfolder, WEIGHTS)
    if file is None:
        raise FileNotFoundError(f"{path} is a static model without {WEIGHTS}; other weights are not read")
    with safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
        if TABLE in names:
            return tensors.get_tensor(TABLE).float()
        if "embeddings" not in names:
            raise ValueError(f"{file} has neither {TABLE} nor embeddings, so it is no static model")
        table = tensors.get_tensor("embeddings").float()
        if "mapping" in names:  # several tokens share a row
            table = table[tensors.get_tensor("mapping").long()]
        if "weights" in names:
            table = table * tensors.get_tensor("weights").float()[:, None]
    # model2vec leaves unknown tokens out.
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    token = model.get("unk_token")
    unknown = model.get("unk_id") if token is None else tokenizer.get_vocab().get(token)
    if unknown is not None:
        table = table.clone()
        table[unknown] = 0
    return table


def _file(path: str, subfolder: str, name: str) -> Path | None:
    return find_file(path, f"{subfolder}/{name}" if subfolder else name)
