"""The base of all encoders: items in, one vector each out; and how they are described, saved and loaded."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_metric.configurable import Configurable, build
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders.packing import evaluating
from lit_metric.encoders.pooling import unit_rows
from lit_metric.encoders.pretrained import weights_given
from lit_metric.encoders.tokenizer import TextTokenizer, TowerTokenizers, truncation_logged_once

CONFIG = "encoder.json"
WEIGHTS = "encoder.safetensors"
FORMAT = 1

_TO_LIST = ("to_pylist", "to_list", "tolist")
"""Of pyarrow's arrays, the Series of pandas and polars, and NumPy's arrays."""

PARTS = {"folder", "encoder"}
"""Keys of an argument that is saved in its own folder: ``{"folder": name}``, or ``{"encoder": name}``."""

Roles = str | Sequence[Any] | None
Weights = Sequence[Sequence[float]] | None
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS = get_args(Precision)


class Encoder(Configurable, nn.Module, ABC):
    """From items, which are rows of texts, to vectors.

    Attributes:
        dimension: components of a vector.
        normalize: whether :meth:`encode` returns vectors of length 1; :meth:`forward` never does that.
        tokenizer: turns texts into the token ids that :meth:`forward` takes.
        subfolders: names of attributes that are encoders or backbones, each saved in a subfolder of its name.
    """

    dimension: int
    normalize: bool
    subfolders: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def tokenizer(self) -> TextTokenizer | TowerTokenizers:
        """The tokenizer of the text tower."""

    @abstractmethod
    def forward(self, inputs: EncoderInput) -> Tensor:
        """Encode the ``I`` items of ``inputs``, such as ``Batch.inputs``.

        Returns:
            ``[I, dimension]``, in float32 at least, not normalised.
        """

    def nothing(self) -> Tensor:
        """``[0, dimension]``, the vectors of no items, with a gradient of zero for all that is trained.

        Under several processes, each has to contribute a gradient for each parameter at each step, also one
        whose share of a small batch is empty.
        """
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return torch.empty(0, self.dimension, device=self.device)
        one = Ragged.from_lists(self.tokenizer.tokenize(["a"])).to(self.device)
        return self(EncoderInput.of_texts(one))[:0]

    @abstractmethod
    def _encode(self, items: Any, max_tokens: int, progress: bool, role: Roles, weights: Weights) -> Tensor:
        """``[n, dimension]`` raw vectors of a list of checked items; called without gradient in evaluation
        mode."""

    def check_items(self, items: list[Any], places: Sequence[int] | None = None) -> None:
        """Check that this encoder can encode them; without a check of the class, all pass.

        Args:
            items: to be encoded.
            places: the numbers by which messages call them, 0, 1, 2, … if None.

        Raises:
            TypeError: names the first that is of the wrong kind.
        """

    def encode(
        self,
        items: Any,
        max_tokens: int = 16384,
        progress: bool = False,
        role: Roles = None,
        weights: Weights = None,
        precision: Precision = "float32",
    ) -> np.ndarray:
        """Embed texts, or items given as lists of texts, whichever this encoder is for.

        Works in evaluation mode and restores the mode that each module was in.

        Args:
            items: texts, or lists of texts: a list, an array, or a column (Series) of pandas, polars or
                pyarrow. One text alone gives one vector.
            max_tokens: texts of similar length run together, at most this many tokens at once.
            progress: show a progress bar.
            role: what the items are, such as "query" or "document"; one for all, one for each, or, for items
                of several texts, a list for each with one for each text.
            weights: for items of several texts, a list for each with a number > 0 for each text.
            precision: of matrix products. ``bfloat16`` is more than twice as fast on a processor that has it
                in hardware (Intel's AMX, recent GPUs), and slower on others; cosines change by about 1e-3.

        Returns:
            float32 ``[n, dimension]``, in the order of ``items``; ``[dimension]`` for one text. Vectors have
            length 1 if ``self.normalize``.

        Raises:
            TypeError: if ``items`` is no sequence, or an item is of the wrong kind, such as None.
            ValueError: if roles or weights are not as many as items or texts, or there is no such precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
        one = isinstance(items, str)
        items = [items] if one else [*as_list(items, "items")]
        self.check_items(items)
        if role is not None and not isinstance(role, str):
            role = as_list(role, "role")
        if weights is not None:
            weights = [as_list(row, "weights") for row in as_list(weights, "weights")]
        # In float32 an autocast region around the call has its way.
        half: AbstractContextManager[Any] = nullcontext()
        if precision != "float32":
            half = torch.autocast(self.device.type, getattr(torch, precision))
        with evaluating(self), torch.inference_mode():
            with half, truncation_logged_once():
                vectors = self._encode(items, max_tokens, progress, role, weights)
            if self.normalize:
                vectors = unit_rows(vectors)
            found = vectors.float().cpu().numpy()
            return found[0] if one else found

    @staticmethod
    def roles_of(role: Roles, count: int, what: str = "items") -> Sequence[Any]:
        """The role of each item, where one may have been given for all.

        Raises:
            ValueError: if there are more or fewer roles than items.
        """
        if role is None or isinstance(role, str):
            return [role] * count
        if len(role) != count:
            raise ValueError(f"{len(role)} roles were given for {count} {what}")
        return role

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def freeze_unused(self) -> None:
        """Freeze parameters that no output depends on, again, after something has unfrozen all."""
        for name in self.subfolders:
            getattr(self, name).freeze_unused()

    def clear_cache(self) -> None:
        """Forget the vectors of texts that a frozen text tower has kept."""
        for name in self.subfolders:
            if isinstance(part := getattr(self, name), Encoder):
                part.clear_cache()

    def save(self, folder: str | Path, weights: bool = True, merge: bool = False) -> None:
        """Write a folder that :meth:`load` can read without the place where the backbone came from.

        Only a backbone with an adapter needs that place: it is saved as the adapter and a reference to its
        base.

        Args:
            folder: is created.
            weights: without them, there is only what is needed to build this encoder.
            merge: work adapters into the weights of their backbones, so that the folder is complete.

        Raises:
            ValueError: if an adapter can't be merged, its base has been trained, or weights are in pieces on
                several processes.
        """
        if weights and any(hasattr(value, "placements") for value in self.parameters()):
            raise ValueError(
                "the weights are in pieces on several processes (fully_shard): gather them by "
                "get_model_state_dict of torch.distributed.checkpoint.state_dict with full_state_dict=True, "
                "load them into an encoder that isn't sharded, and save that one"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = self.spec()
        arguments = described["init_args"] | self._saved_arguments()
        for name in self.subfolders:
            part = getattr(self, name)
            part.save(folder / name, weights, merge=merge)
            arguments[name] = {"encoder" if isinstance(part, Encoder) else "folder": name}
        if weights:
            own = {
                name: value.detach().contiguous().cpu()
                for name, value in self.state_dict().items()
                if name.split(".")[0] not in self.subfolders
            }
            save_file(own, folder / WEIGHTS)
        taken = inspect.signature(type(self)).parameters.values()
        if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in taken):
            # What a subclass doesn't take, it has decided itself; but not where its saved parts lie.
            known = [each.name for each in taken]
            if lost := [name for name in self.subfolders if name not in known]:
                raise ValueError(
                    f"{type(self).__qualname__} can't be saved: its __init__ has to take {', '.join(lost)}, "
                    "as a saved encoder is built from the parts in its own folder"
                )
            arguments = {name: arguments[name] for name in known if name in arguments}
        content = {
            "format": FORMAT,
            "dimension": self.dimension,
            "class_path": described["class_path"],
            "init_args": arguments,
        }
        (folder / CONFIG).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def _saved_arguments(self) -> dict[str, Any]:
        """Arguments that build this encoder as it is now, where they differ from those that it was given."""
        return {}

    @staticmethod
    def load(
        folder: str | Path, trust_remote_code: bool = False, weights: Mapping[str, Tensor] | None = None
    ) -> Encoder:
        """Read what :meth:`save` wrote.

        Args:
            folder: as given to :meth:`save`.
            trust_remote_code: allow encoders, poolings and backbones whose classes lie outside lit_metric and
                transformers.
            weights: the ``state_dict()`` of the encoder; None reads the folder's files. Under
                ``torch.device("meta")`` there are names and shapes only.

        Raises:
            FileNotFoundError: if the folder holds no encoder.
            ValueError: if it names classes that aren't trusted, or the weights don't fit.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{folder} holds no {CONFIG}, so no encoder was saved there")
        spec = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if spec.get("format") != FORMAT:
            raise ValueError(
                f"{folder / CONFIG} has format {spec.get('format')}, this version reads {FORMAT}"
            )
        arguments, given = dict(spec["init_args"]), {}
        for name, value in arguments.items():
            kind, part = (
                next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", "")
            )
            if kind not in PARTS or not (part == name or (folder / str(part)).is_dir()):
                continue
            if kind == "folder":
                arguments[name] = str(folder / part)
                given[arguments[name]] = under(f"{part}.model.", weights or {})
            else:
                own = None if weights is None else under(f"{part}.", weights)
                arguments[name] = Encoder.load(folder / part, trust_remote_code, own)
        if trust_remote_code and "trust_remote_code" in arguments:
            arguments["trust_remote_code"] = True
        described = {"class_path": spec["class_path"], "init_args": arguments}
        with nullcontext() if weights is None else weights_given(given):
            encoder = build(described, trust_remote_code=trust_remote_code)
        if not isinstance(encoder, Encoder):
            raise ValueError(f"{folder / CONFIG} describes a {type(encoder).__name__}, which is no encoder")
        if weights is not None or encoder.device.type != "meta":
            state = load_file(folder / WEIGHTS) if weights is None else weights
            missing, unexpected = encoder.load_state_dict(state, strict=False)
            missing = [name for name in missing if name.split(".")[0] not in encoder.subfolders]
            if missing or unexpected:
                raise ValueError(
                    f"{folder / WEIGHTS} doesn't fit: missing {missing}, unexpected {unexpected}"
                )
        return encoder


def under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def as_list(values: Any, what: str) -> list[Any]:
    """A sequence of any library as a list.

    Raises:
        TypeError: if it is one text, a table, or has no order.

    Example:
        >>> import numpy as np
        >>> as_list(np.array(["a", "b"]), "items")
        ['a', 'b']
    """
    if isinstance(values, list):
        return values
    columns = getattr(values, "column_names", None) or getattr(values, "columns", None)
    if isinstance(values, Mapping):
        columns = [*values]
    if columns is not None:
        names = [str(name) for name in columns if isinstance(name, str)]
        example = f"[{names[0]!r}]" if names else "[column]"
        raise TypeError(
            f"{what}: a {type(values).__name__} is a table, not a column: pass one of its columns, as in "
            f"table{example}" + (f"; it has {', '.join(names[:8])}" if names else "")
        )
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{what}: this is one text, not a list of texts: put it into a list, as in [text]")
    if isinstance(values, (set, frozenset)):
        raise TypeError(f"{what}: a set has no order in which vectors could be returned: pass a list")
    for name in _TO_LIST:
        if callable(convert := getattr(values, name, None)) and isinstance(column := convert(), list):
            return column
    if not isinstance(values, Iterable):
        raise TypeError(f"{what}: a {type(values).__name__} is no sequence: pass a list")
    return list(values)


def check_texts(texts: Sequence[Any], name: Callable[[int], str]) -> None:
    """Check that all are texts.

    Args:
        texts: all of one call.
        name: of the text in a row, for messages.

    Raises:
        TypeError: names the first that is no string, and how many there are.
    """
    odd = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if odd:
        value = texts[odd[0]]
        kind = "" if value is None else f", a {type(value).__name__}"
        more = f" ({len(odd)} of {len(texts)} are no texts)" if len(odd) > 1 else ""
        raise TypeError(
            f"{name(odd[0])} is {value!r:.60}{kind}, and a text was expected{more}: leave it out, or put "
            "a text in its place"
        )
