"""Vectors of frozen text towers, kept between fits and, in a folder, between processes.

Many short fits would each pass the same texts through the same frozen tower. Here the texts of a corpus are
encoded in one pass, in their order, so no vector depends on which fit came first. A kept vector is found by a
hash of its text's tokens. A file's name is a digest of the tower's weights and of all texts, so another
backbone or another corpus never finds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_metric import MetricDataModule, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import Encoder
from lit_metric.encoders.composed import QUERY_ROLE
from lit_metric.encoders.pretrained import fingerprint, locate
from lit_metric.encoders.text import FrozenTable, token_hashes
from lit_metric.mining.texts import text_of_items
from lit_metric.modules.tasks import encode_items
from lit_metric.store import replacing

_SKIPPED = 0x51ED270B27A4C35
_kept: dict[str, Vectors] = {}
_names: dict[str, str] = {}


class Vectors:
    """Vectors of texts by hashes of their tokens.

    Args:
        prints: ``[n]`` int64 distinct hashes.
        values: ``[n, h]``.
    """

    def __init__(self, prints: Tensor, values: Tensor) -> None:
        order = prints.argsort()
        self.prints, self.values = prints[order], values[order]

    def find(self, prints: Tensor) -> tuple[Tensor, Tensor]:
        """``[m]`` rows of the hashes ``prints [m]``, and which of them are known."""
        if not len(self.prints):
            return torch.zeros_like(prints), torch.zeros_like(prints, dtype=torch.bool)
        rows = torch.searchsorted(self.prints, prints).clamp_max(len(self.prints) - 1)
        return rows, self.prints[rows] == prints


def hashes(tokens: Ragged, skip: Tensor | None) -> Tensor:
    """``[U]`` int64, of texts of which ``skip [U]`` leading tokens are not pooled."""
    return token_hashes(tokens) if skip is None else token_hashes(tokens) + skip * _SKIPPED


class KeptTable(FrozenTable):
    """The table of a frozen tower, which looks among kept vectors before it lets anything be encoded.

    Args:
        kept: of the same tower.

    Attributes:
        encoded: how many texts were not among them.
    """

    def __init__(self, kept: Vectors | None = None) -> None:
        super().__init__()
        self.kept, self.encoded = kept, 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.kept, self.encoded = None, 0

    def look_up(
        self,
        tokens: Ragged,
        text_ids: Tensor,
        state: Any,
        compute: Callable[..., Tensor],
        skip: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`FrozenTable.look_up`."""

        def find(tokens: Ragged, skip: Tensor | None = None) -> Tensor:
            own = [tokens] if skip is None else [tokens, skip]
            if self.kept is None:
                return compute(*own)
            prints = hashes(tokens, skip).cpu()
            rows, known = self.kept.find(prints)
            new = (~known).nonzero()[:, 0].to(tokens.values.device)
            self.encoded += len(new)
            if len(new) == len(prints):
                return compute(*own)
            found = self.kept.values[rows].to(tokens.values.device)
            if len(new):
                found[new] = compute(*[tokens.select(new), *([] if skip is None else [skip[new]])])
            return found

        return super().look_up(tokens, text_ids, state, find, skip)


def frozen_towers(encoder: Encoder) -> Iterator[tuple[TextEncoder, bool | None]]:
    """The frozen text towers of an encoder, and whether each is for queries alone, for all but queries, or
    (None) for all items."""
    sides: list[tuple[Encoder, bool | None]] = [(encoder, None)]
    if isinstance(encoder, TwoTowerEncoder):
        sides = [(encoder.query, True), (encoder.document, False)]
    for each, queries in sides:
        tower = each.text if isinstance(each, SetEncoder) else each
        if isinstance(tower, TextEncoder) and tower.frozen and tower.cache_frozen:
            yield tower, queries


def keep_vectors(encoder: Encoder, data: MetricDataModule, config: str, folder: Path | None = None) -> None:
    """Give the frozen towers of an encoder the vectors of all items, which are encoded if need be.

    Args:
        encoder: about to be trained.
        data: after its ``prepare``.
        config: says which tower and which data these are; read again only for another one.
        folder: where vectors are kept for other processes; None keeps them in this process alone.
    """
    for tower, queries in frozen_towers(encoder):
        place = f"{config} {queries}"
        if place not in _names:
            # A loader draws a seed, and what is drawn after that must not depend on who came first.
            with torch.random.fork_rng():
                _names[place] = _fill(tower, data, queries, folder)
        tower.table = KeptTable(_kept[_names[place]])


def _fill(tower: TextEncoder, data: MetricDataModule, queries: bool | None, folder: Path | None) -> str:
    """Encode all texts of a tower, or read their vectors; the name under which they are kept."""
    parts: list[EncoderInput] = []
    for batch in data.encoding_loader(torch.arange(len(data.items))):
        inputs = batch.inputs
        if queries is not None:
            assert inputs.roles is not None
            rows = ((inputs.roles == QUERY_ROLE) == queries).nonzero()[:, 0]
            if not len(rows):
                continue
            inputs = inputs.select(rows)
        parts.append(inputs)
    prints = torch.cat(
        [torch.empty(0, dtype=torch.int64), *(hashes(each.tokens, each.skip) for each in parts)]
    )
    digest = hashlib.sha256(f"{fingerprint(tower)} {tower.pooling.spec()}".encode())
    digest.update(prints.numpy().tobytes())
    name = digest.hexdigest()[:32]

    def encode() -> dict[str, Tensor]:
        tower.table = FrozenTable()
        with torch.no_grad():
            vectors = torch.cat([tower.features(each.to(tower.device)).cpu() for each in parts])
        known, number = prints.unique(return_inverse=True)
        first = torch.full_like(known, len(prints)).scatter_reduce(
            0, number, torch.arange(len(prints)), "amin"
        )
        return {"prints": known, "values": vectors[first]}

    if name not in _kept:
        _kept[name] = Vectors(**_saved(name, encode, folder))
    return name


def _saved(name: str, make: Callable[[], dict[str, Tensor]], folder: Path | None) -> dict[str, Tensor]:
    """What ``make`` returns, from a file in ``folder`` if it is there."""
    if folder is None:
        return make()
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return load_file(path)
    found = {key: value.contiguous() for key, value in make().items()}
    with replacing(path) as unfinished:
        save_file(found, unfinished)
    return found


class KeptItems:
    """:func:`~lit_metric.modules.tasks.encode_items`, of which each guide encodes each corpus once.

    Args:
        folder: see :func:`keep_vectors`.
    """

    _found: dict[str, Tensor] = {}  # noqa: RUF012 (of the process)

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def __call__(
        self, encoder: str, ids: Tensor | None = None, *, data: MetricDataModule, device: torch.device
    ) -> Tensor:
        """See :func:`~lit_metric.modules.tasks.encode_items`."""
        wanted = torch.arange(len(data.items)) if ids is None else ids
        texts = text_of_items(data.items, data.vocabulary, wanted)
        digest = hashlib.sha256(json.dumps([encoder, *texts]).encode())
        for path in sorted(Path(locate(encoder)).glob("*")):  # nothing, for a name on the hub
            if path.is_file():
                digest.update(path.read_bytes())
        name = f"guide-{digest.hexdigest()[:32]}"

        def encode() -> dict[str, Tensor]:
            return {"values": encode_items(encoder, ids, data=data, device=device).cpu()}

        if name not in self._found:
            self._found[name] = _saved(name, encode, self.folder)["values"]
        return self._found[name].to(device)
