"""The encoder of plain texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders.backbone import Backbone, Packing, freeze_parameters
from lit_metric.encoders.base import Encoder, Roles, Weights, check_texts
from lit_metric.encoders.pooling import MeanPooling, Pooling, Projection, drop_leading
from lit_metric.encoders.pretrained import locate
from lit_metric.encoders.recompute import (
    Recompute,
    in_chunks,
    length_chunks,
    recompute_layers,
    tokens_in_memory,
)
from lit_metric.encoders.segments import segment_sum, take_rows, widen
from lit_metric.encoders.tokenizer import TextTokenizer

log = logging.getLogger(__name__)


class TextEncoder(Encoder):
    """Backbone, pooling, projection.

    A sentence-transformers source is read whole: what isn't given here (pooling with its dense layers,
    normalisation, prompt, length, case) is as it says there.

    Args:
        backbone: a Hugging Face id, a folder, or ``package:NAME/folder`` inside an installed package; also
            an adapter of peft, whose base is loaded, too.
        pooling: from token states to one vector; if None, what the source says, else the mean. Giving one
            leaves the source's dense layers out.
        projection: components of a linear layer after the pooling, or ready layers; after the source's own.
        hidden: components of a further layer with GELU before that one.
        max_length: tokens per text, special ones included; longer texts are cut. If None, what the source
            says.
        prompt: put before every text; if None, the source's default prompt.
        lower_case: lower-case texts first; if None, what the source says.
        replacements: strings to be replaced in every text before it is tokenised, such as ``{"_": " "}``.
        normalize: whether :meth:`encode` returns vectors of length 1; if None, what the source says, else
            True.
        freeze: True freezes the backbone, which then always runs in evaluation mode; or a list of names of
            its parts (``embeddings``, ``encoder.layer.0``) or patterns (``*.bias``).
        dropout: replaces every dropout probability of the backbone; None keeps them.
        packing: "auto" runs texts end to end if that is shown to change nothing, "always" insists, "never"
            pads.
        cache_frozen: if backbone and pooling are frozen, keep each text's vector (4 bytes per component, on
            the device), and don't encode it again. Not saved; :meth:`clear_cache` empties it.
        trust_remote_code: run model code that comes with the weights.
        prompts: by role ("query", "document", "title", ...), put before texts in that role instead of
            ``prompt``; if None, the source's.
        max_lengths: by role, instead of ``max_length``.
        pool_prompt: whether the pooling sees a prompt's tokens, which the backbone always does; False is what
            sentence-transformers calls ``include_prompt=False``. If None, what the source says, else True.
        truncate_dim: keep this number of leading components of each vector, before it is brought to length 1.
            If None, what the source says, else all; the full number overrides the source.
        recompute: what is computed again in the backward pass, to save memory. "chunks" encodes a batch chunk
            by chunk and keeps the vectors only, so a batch may be as large as its vectors and its loss allow;
            a step takes longer. "layers" keeps the input of each layer only, for long texts; the model has to
            support gradient checkpointing. "none" keeps everything.
        max_tokens_in_memory: tokens whose activations are held at once, with ``recompute="chunks"``; 4096 if
            None, which takes about 0.8 GB with MiniLM-L6 in float32, and more the wider and deeper the
            backbone. A text with more is held alone.
        adapter: train an adapter of peft in a backbone that is frozen: ``peft_type`` and fields of its
            configuration, as in ``{peft_type: LORA, r: 16, target_modules: all-linear}``. Pooling and
            projection are trained as well.

    Raises:
        FileNotFoundError: if there is no such backbone.
        ImportError: for an adapter without peft.
        ValueError: if arguments don't fit each other or the backbone.
    """

    subfolders = ("backbone",)
    backbone_class: ClassVar[type[Backbone]] = Backbone

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
        freeze: bool | list[str] = False,
        dropout: float | None = None,
        packing: Packing = "auto",
        cache_frozen: bool = True,
        trust_remote_code: bool = False,
        prompts: dict[str, str] | None = None,
        max_lengths: dict[str, int] | None = None,
        pool_prompt: bool | None = None,
        truncate_dim: int | None = None,
        recompute: Recompute = "none",
        max_tokens_in_memory: int | None = None,
        adapter: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.recompute: Recompute = recompute
        self.tokens_in_memory = tokens_in_memory(recompute, max_tokens_in_memory)
        if adapter is not None and freeze is True:
            raise ValueError("freeze: true leaves nothing of the adapter to train: leave out one of the two")
        recipe = self.backbone_class.recipe(locate(backbone), head=pooling is None)
        self.backbone = self.backbone_class.load(
            backbone,
            max_length=recipe.max_length if max_length is None else max_length,
            prompt=recipe.prompt if prompt is None else prompt,
            lower_case=recipe.lower_case if lower_case is None else lower_case,
            replacements=recipe.replacements if replacements is None else replacements,
            prompts=recipe.prompts if prompts is None else prompts,
            max_lengths=recipe.max_lengths if max_lengths is None else max_lengths,
            pool_prompt=recipe.pool_prompt if pool_prompt is None else pool_prompt,
            dropout=dropout,
            packing=packing,
            trust_remote_code=trust_remote_code,
            subfolder=recipe.subfolder,
            adapter=adapter,
        )
        self.pooling = pooling or recipe.pooling or MeanPooling()
        self.pooling.build(self.backbone.hidden_size)
        source, width = Projection.stack(recipe.projection, None, self.backbone.hidden_size)
        layers, whole = Projection.stack(projection, hidden, width)
        self.projection = nn.Sequential(*source, *layers)
        self.truncate_dim = self._components(truncate_dim, recipe.truncate_dim, projection is not None, whole)
        self.dimension = self.truncate_dim or whole
        if normalize is None:
            normalize = recipe.normalize is not False
        self.normalize = normalize
        self.cache_frozen = cache_frozen
        self.table = FrozenTable()
        freeze_parameters(self.backbone.model, freeze)
        if recompute == "layers":
            recompute_layers(self.backbone.model)

    @staticmethod
    def _components(given: int | None, source: int | None, projected: bool, whole: int) -> int | None:
        """The components that are kept, None for all, by the argument, else by the source."""
        if given is None and source is not None and source < whole:
            if projected:
                raise ValueError(
                    f"the source keeps truncate_dim={source} components, and a projection comes after it: "
                    "give truncate_dim yourself, as many as the projection has to keep all"
                )
            return source
        if given is not None and not 1 <= given <= whole:
            raise ValueError(f"truncate_dim is {given}; vectors have {whole} components")
        return None if given == whole else given

    @property
    def tokenizer(self) -> TextTokenizer:
        """Fingerprinted, with prompts, case and lengths."""
        return self.backbone.tokenizer

    def forward(self, inputs: EncoderInput) -> Tensor:
        """See :meth:`Encoder.forward`; here every item is one text, whatever its weight."""
        items = inputs.items
        if len(items.values) != len(items):
            raise ValueError(
                f"{len(items)} items hold {len(items.values)} texts; TextEncoder takes one each, "
                "items of several texts (tags) need a SetEncoder"
            )
        return take_rows(self.embed(inputs), items.values)

    def embed(self, inputs: EncoderInput) -> Tensor:
        """``[U, dimension]``: one vector per text, whatever the items."""
        if self.recompute != "chunks":
            return self._project(self.features(inputs))
        lengths = inputs.tokens.lengths

        def features(rows: Tensor) -> Tensor:
            ids, skip = (None if each is None else each[rows] for each in (inputs.text_ids, inputs.skip))
            return self.features(EncoderInput.of_texts(inputs.tokens.select(rows), ids, skip))

        def vectors(rows: Tensor) -> Tensor:
            return self._project(features(rows))

        if self._features_frozen:  # the backward pass doesn't need them again
            return self._project(in_chunks(features, lengths, self.tokens_in_memory))
        return in_chunks(vectors, lengths, self.tokens_in_memory, self.parameters())

    def _project(self, features: Tensor) -> Tensor:
        return widen(self.projection(features)[:, : self.dimension])

    def features(self, inputs: EncoderInput) -> Tensor:
        """``[U, h]``: the pooled states of each text, before the projection."""
        if not self._features_frozen or inputs.text_ids is None or not self.cache_frozen:
            return self._pool(inputs.tokens, inputs.skip)
        state = self._weights_state()
        return self.table.look_up(inputs.tokens, inputs.text_ids, state, self._pool, inputs.skip)

    @property
    def _features_frozen(self) -> bool:
        return self.frozen and not any(each.requires_grad for each in self.pooling.parameters())

    def _pool(self, tokens: Ragged, skip: Tensor | None = None) -> Tensor:
        frozen = self.frozen
        if frozen:
            self.backbone.eval()  # it may have been frozen after train() was called
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            states = self.backbone(tokens)
        return self.pooling(states if skip is None else drop_leading(states, skip))

    @property
    def frozen(self) -> bool:
        """Whether nothing in the backbone is trained."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def clear_cache(self) -> None:
        """See :meth:`Encoder.clear_cache`."""
        self.table.clear()

    def train(self, mode: bool = True) -> TextEncoder:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def _weights_state(self) -> tuple[Any, ...]:
        parameters = [*self.backbone.parameters(), *self.pooling.parameters()]
        autocast = (
            torch.get_autocast_dtype(self.device.type)
            if torch.is_autocast_enabled(self.device.type)
            else None
        )
        return (
            sum(0 if parameter.is_inference() else parameter._version for parameter in parameters),
            tuple(parameter.data_ptr() for parameter in parameters[:2]),
            parameters[0].dtype,
            parameters[0].device,
            autocast,
        )

    def check_items(self, items: list[Any], places: Sequence[int] | None = None) -> None:
        """See :meth:`Encoder.check_items`; here each item is a text."""

        def name(row: int) -> str:
            return f"item {row if places is None else places[row]}"

        check_texts(items, name)
        empty = [row for row, text in enumerate(items) if not text.strip()]
        if empty:
            log.warning(
                "%d of %d texts are empty, the first is %s: they share one vector, which has no meaning",
                len(empty),
                len(items),
                name(empty[0]),
            )

    def _encode(self, items: Any, max_tokens: int, progress: bool, role: Roles, weights: Weights) -> Tensor:
        if weights is not None:
            raise ValueError("weights are for items of several texts, which need a SetEncoder")
        rows, skip = self.tokenizer.tokenize_by_role(items, self.roles_of(role, len(items)))
        vectors = torch.empty(len(rows), self.dimension)
        with tqdm(total=len(rows), desc="encode", unit="text", disable=not progress) as bar:
            for chunk in length_chunks(rows.lengths, max_tokens):
                inputs = EncoderInput.of_texts(rows.select(chunk), skip=None if skip is None else skip[chunk])
                vectors[chunk] = self.embed(inputs.to(self.device)).float().cpu()
                bar.update(len(chunk))
        return vectors

    def _saved_arguments(self) -> dict[str, Any]:
        layers = [layer.spec() for layer in self.projection if isinstance(layer, Projection)]
        return {
            "pooling": self.pooling.spec(),
            "projection": layers or None,
            "hidden": None,
            "max_length": self.tokenizer.max_length,
            "prompt": self.tokenizer.prompt,
            "lower_case": self.tokenizer.lower_case,
            "replacements": self.tokenizer.replacements or None,
            "prompts": self.tokenizer.prompts or None,
            "max_lengths": self.tokenizer.max_lengths or None,
            "pool_prompt": self.tokenizer.pool_prompt,
            "normalize": self.normalize,
            "truncate_dim": self.truncate_dim,
            "dropout": None,  # the backbone's configuration or the reference to its base holds it
            "adapter": None,  # it lies in the backbone's folder
            "trust_remote_code": False,
        }


def frozen_encoder(backbone: str, device: torch.device | str = "cpu") -> TextEncoder:
    """A text encoder that isn't trained, such as a guide's; the global generator is as before.

    Args:
        backbone: as for :class:`TextEncoder`.
        device: where it runs.
    """
    with torch.random.fork_rng():  # to load a model draws random numbers, for weights that it then replaces
        return TextEncoder(backbone, freeze=True).to(device)


class FrozenTable:
    """One vector per text of a vocabulary, each computed when it is first needed.

    A vocabulary id alone can mislead (another data set has other texts), so each entry also keeps a hash of
    the text's tokens, and of how many of them are kept out of pooling; an entry with another hash is
    computed again.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.state: Any = None
        self.count = 0
        self._slots = torch.empty(0, dtype=torch.int64)
        self._prints = torch.empty(0, dtype=torch.int64)
        self._vectors = torch.empty(0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.clear()

    def look_up(
        self,
        tokens: Ragged,
        text_ids: Tensor,
        state: Any,
        compute: Callable[..., Tensor],
        skip: Tensor | None = None,
    ) -> Tensor:
        """Vectors of the texts, without gradient.

        Args:
            tokens: token ids of ``U`` texts.
            text_ids: ``[U]`` vocabulary ids, all different.
            state: anything that changes when the model does; a change empties the table.
            compute: ``U'`` texts to ``[U', h]``, called with those that are new, and their ``skip`` if given.
            skip: ``[U]`` int64, how many leading tokens of each text are kept out of pooling.

        Returns:
            ``[U, h]``.
        """
        # Entries outlive an inference_mode block in which they were computed.
        with torch.inference_mode(False), torch.no_grad():
            if state != self.state:
                self.clear()
                self.state = state
                self._slots, self._prints = self._slots.to(text_ids.device), self._prints.to(text_ids.device)
            self._reserve_ids(text_ids)
            prints = token_hashes(tokens)
            if skip is not None:
                prints = prints + skip * 0x6A09E667F3BCC909
            slots = self._slots[text_ids]
            new = slots < 0
            if self.count:
                new |= self._prints[slots.clamp(min=0)] != prints
            rows = new.nonzero().squeeze(1)
            if len(rows):
                given = [tokens.select(rows)] if skip is None else [tokens.select(rows), skip[rows]]
                self._store(text_ids[rows], prints[rows], compute(*given))
                slots = self._slots[text_ids]
            return self._vectors.index_select(0, slots)

    def _reserve_ids(self, text_ids: Tensor) -> None:
        more = int(text_ids.max()) + 1 - len(self._slots) if len(text_ids) else 0
        if more > 0:
            self._slots = torch.cat([self._slots, self._slots.new_full((max(more, len(self._slots)),), -1)])

    def _store(self, text_ids: Tensor, prints: Tensor, vectors: Tensor) -> None:
        slots = torch.arange(self.count, self.count + len(vectors), device=text_ids.device)
        if self.count + len(vectors) > len(self._vectors):
            room = max(len(vectors), self.count)
            grown = vectors.new_empty(self.count + room, vectors.shape[1])
            grown[: self.count] = self._vectors[: self.count] if self.count else grown[:0]
            self._vectors = grown
            self._prints = torch.cat([self._prints[: self.count], prints.new_zeros(room)])
        self._vectors[slots], self._prints[slots], self._slots[text_ids] = vectors, prints, slots
        self.count += len(vectors)


def token_hashes(tokens: Ragged) -> Tensor:
    """``[U]`` int64, a hash of each row of token ids, in order."""
    mixed = (tokens.values + 1) * 0x9E3779B97F4A7C1 + (tokens.positions + 1) * 0x2545F4914F6CDD1D
    mixed = (mixed ^ (mixed >> 29)) * 0x1B873593CC9E2D51
    return segment_sum(Ragged(mixed ^ (mixed >> 32), tokens.offsets))
