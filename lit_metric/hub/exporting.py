"""Export encoders as folders that ``SentenceTransformer(folder)`` loads."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from lit_metric.encoders import (
    Encoder,
    Projection,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.encoders.pooling import ACTIVATIONS, Pooling
from lit_metric.encoders.pretrained import quietly
from lit_metric.encoders.recipe import EXPORTED, FORWARD, LEARNED, LEARNED_OPTIONS, MAX_LENGTHS, POOLINGS
from lit_metric.encoders.tokenizer import DOCUMENT_NAMES, QUERY, TextTokenizer, TowerTokenizers
from lit_metric.hub.card import write_card
from lit_metric.hub.check import Check, compare, cuts_by_role
from lit_metric.hub.loading import TOWERS

if TYPE_CHECKING:
    from lit_metric.hub.remote import SegmentPooling

log = logging.getLogger(__name__)

DEFAULT = "default"
"""The name of the prompt of texts without a role in an export."""

MODES = {pooling: mode for mode, pooling in (POOLINGS | LEARNED).items()}

ROUTER = "sentence_transformers.base.modules.router.Router"
GENERAL = "config_sentence_transformers.json"


def export(
    encoder: Encoder,
    folder: str | Path,
    run: str | Path | None = None,
    sample: Sequence[Any] | None = None,
    card: bool = True,
) -> Check:
    """Write a folder that ``SentenceTransformer(folder)`` loads, read it back, and compare the vectors.

    Standard poolings become modules of sentence-transformers, and the folder is an ordinary Hugging Face
    model besides. Poolings that learn, replacements and encoders of sets need a file of modules, which the
    folder holds and ``SentenceTransformer(folder, trust_remote_code=True)`` runs. There an item of several
    texts is a list, or one string with " | " between them. Two towers become one model, of which
    ``encode_query`` and ``encode_document`` choose the tower, and whose folders ``query`` and ``document``
    are models, too. Prompts by role become prompts, and adapters are merged. :func:`load` reads all of it
    back.

    Args:
        encoder: a TextEncoder, StaticEncoder, SetEncoder or TwoTowerEncoder with poolings of this library.
        folder: is created. It appears when all has been written and compared.
        run: the folder of the run that trained the encoder; its config and metrics go into the model card.
        sample: items to compare by; texts in several scripts if None.
        card: whether to write a model card, ``README.md``.

    Returns:
        How far the vectors differ.

    Raises:
        ValueError: for an encoder of another class or pooling, or if vectors differ by more than 1e-5 at
            length 1; then nothing is left behind.
    """
    folder = Path(folder)
    check_exportable(encoder)
    if any(value.dtype in (torch.float16, torch.bfloat16) for value in encoder.parameters()):
        reference = copy.deepcopy(encoder).float()
    else:
        reference = encoder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as place:
        written = Path(place, folder.name or "model")
        if isinstance(encoder, TwoTowerEncoder):
            for name in TOWERS:
                _export_one(getattr(encoder, name), written / name)
            _join_towers(encoder, written)
        else:
            _export_one(encoder, written)
        check = compare(reference, written, sample)
        if card:
            write_card(written, encoder, [check], run)
        folder.mkdir(exist_ok=True)
        for path in written.iterdir():
            if (target := folder / path.name).is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
    return check


def check_exportable(encoder: Encoder) -> None:
    """Raise ValueError for an encoder that can't be carried to sentence-transformers, and say why."""
    if isinstance(encoder, TwoTowerEncoder):
        for name in TOWERS:
            check_exportable(getattr(encoder, name))
        _prompts(encoder.tokenizer)
        return
    lacking = ""
    text = encoder.text if isinstance(encoder, SetEncoder) else encoder
    if not isinstance(text, TextEncoder):
        lacking = f"the class {type(encoder).__name__}"
    else:
        poolings = [text.pooling, *([encoder.pooling] if isinstance(encoder, SetEncoder) else [])]
        odd = [type(pooling).__name__ for pooling in poolings if type(pooling) not in MODES]
        layers = [*text.projection, *(encoder.projection if isinstance(encoder, SetEncoder) else [])]
        odd += [type(layer).__name__ for layer in layers if type(layer) is not Projection]
        lacking = ", ".join(odd)
    if lacking or not isinstance(text, TextEncoder):
        raise ValueError(
            f"an export to sentence-transformers has no counterpart of {lacking}: keep the folder that "
            "Encoder.save wrote, or write one by --format lit-metric, and read it with lit_metric.load"
        )
    _prompts(text.tokenizer)


def _prompts(tokenizer: TextTokenizer | TowerTokenizers) -> dict[str, str] | None:
    """Prompts by their names in sentence-transformers, None if there are none."""
    query = document = tokenizer
    if isinstance(tokenizer, TowerTokenizers):
        query, document = tokenizer.query, tokenizer.document
    assert isinstance(query, TextTokenizer)
    assert isinstance(document, TextTokenizer)
    # Always those of queries and documents: where one is missing, sentence-transformers takes an empty prompt
    # and not the default one.
    main = {QUERY: query.prompt_of(QUERY), TOWERS[1]: document.prompt_of(TOWERS[1])}
    prompts = main | {role: text for role, text in document.prompts.items() if role != QUERY}
    if not any((query.prompt, document.prompt, query.prompts, document.prompts)):
        return None
    if document.prompt and prompts.setdefault(DEFAULT, document.prompt) != document.prompt:
        raise ValueError(
            f"the prompt of the role {DEFAULT!r} differs from that of texts without a role, which an export "
            "gives this name: rename the role"
        )
    return prompts


def _export_one(encoder: Encoder, folder: Path) -> None:
    """Write an encoder that is no pair of towers."""
    # Here, as it takes seconds, and nothing else needs it.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    from lit_metric.hub import remote

    text = encoder.text if isinstance(encoder, SetEncoder) else encoder
    assert isinstance(text, TextEncoder)
    tokenizer = text.tokenizer
    modules = _text_modules(text, folder, isinstance(encoder, SetEncoder))
    if isinstance(encoder, SetEncoder):
        options = {"level": "texts", "normalize": encoder.normalize_texts}
        modules.append(_segment_pooling(encoder.pooling, text.dimension, **options))
        modules += _dense(encoder.projection)
    if encoder.normalize:
        modules.append(Normalize())
    model = quietly(
        SentenceTransformer,
        modules=modules,
        device="cpu",
        prompts=_prompts(tokenizer),
        default_prompt_name=DEFAULT if tokenizer.prompt else None,
        truncate_dim=getattr(encoder, "truncate_dim", None),
    )
    quietly(model.save, str(folder), create_model_card=False)
    rows = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for row in rows:
        row["type"] = row["type"].replace(f"{remote.__name__}.", f"{EXPORTED}.")
    _write_json(folder / "modules.json", rows)
    _add_modules_file(folder, [row["type"] for row in rows])
    if tokenizer.max_lengths:
        general = json.loads((folder / GENERAL).read_text(encoding="utf-8"))
        _write_json(folder / GENERAL, general | {MAX_LENGTHS: tokenizer.max_lengths})
        names = {role: TOWERS[1] if role in DOCUMENT_NAMES else role for role in tokenizer.max_lengths}
        if lost := [role for role, name in names.items() if not cuts_by_role(model[0], name)]:
            log.warning(
                "sentence-transformers cuts texts to %d tokens in the roles that it has no length for; the "
                "lengths of these (%s) stay in the export for lit_metric.load",
                tokenizer.max_length,
                ", ".join(f"{role}: {tokenizer.max_lengths[role]}" for role in lost),
            )


def _text_modules(encoder: TextEncoder, folder: Path, sets: bool) -> list[Any]:
    """Modules from texts to raw vectors of texts; backbone and tokenizer are in the folder then."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling as NativePooling
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from lit_metric.hub.remote import TextInput, TokenTable

    tokenizer, pooling, width = encoder.tokenizer, encoder.pooling, encoder.backbone.hidden_size
    lengths = {role: tokenizer.max_length_of(role) for role in tokenizer.roles}
    lengths = {role: length for role, length in lengths.items() if length != tokenizer.max_length}
    plain = not sets and not tokenizer.replacements
    layers = _dense(encoder.projection)
    second: Any
    if isinstance(encoder, StaticEncoder):
        plain = plain and not tokenizer.lower_case and tokenizer.tokenizer.is_fast
        if plain and (folded := encoder.folded()) is not None:
            own = Tokenizer.from_str(tokenizer.tokenizer.backend_tokenizer.to_str())
            own.enable_truncation(tokenizer.max_length)
            return [StaticEmbedding(own, folded), *layers]
        encoder.backbone.save(folder)
        table = quietly(TokenTable.load, str(folder))
        texts = TextInput(table, sets, tokenizer.replacements, lengths)
        return [texts, _segment_pooling(pooling, width), *layers]
    encoder.backbone.save(folder, pad=True, merge=True)
    transformer = quietly(
        Transformer,
        str(folder),
        max_seq_length=tokenizer.max_length,
        do_lower_case=tokenizer.lower_case,
        query_length=lengths.get(QUERY),
        document_length=lengths.get(TOWERS[1]),
        # Texts as they are, also where the tokenizer has a template for chats.
        modality_config={"text": FORWARD},
        module_output_name="token_embeddings",
    )
    native = type(pooling) in POOLINGS.values()
    if native:
        second = NativePooling(width, MODES[type(pooling)], include_prompt=tokenizer.pool_prompt)
    else:
        second = _segment_pooling(pooling, width, include_prompt=tokenizer.pool_prompt)
    # When sentence-transformers saves a model again, it puts the file of modules where it is looked for only
    # if the first module is one of that file.
    first = transformer
    if not (plain and native):
        first = TextInput(transformer, sets, tokenizer.replacements, lengths)
    return [first, second, *layers]


def _segment_pooling(pooling: Pooling, dimension: int, **options: Any) -> SegmentPooling:
    from lit_metric.hub.remote import SegmentPooling

    names = LEARNED_OPTIONS.get(MODES[type(pooling)], ())
    options |= {name: getattr(pooling, name) for name in names}
    module = SegmentPooling(MODES[type(pooling)], dimension, **options)
    module.load_state_dict(pooling.state_dict())
    return module


def _dense(layers: torch.nn.Sequential) -> list[Any]:
    from sentence_transformers.base.modules import Dense

    modules = []
    for layer in layers:
        assert isinstance(layer, Projection)
        activation = ACTIVATIONS[layer.activation]()
        dense = Dense(layer.linear.in_features, layer.dimension, layer.bias, activation_function=activation)
        with torch.no_grad():
            dense.linear.load_state_dict(layer.linear.state_dict())
        modules.append(dense)
    return modules


def _join_towers(encoder: TwoTowerEncoder, folder: Path) -> None:
    """Make one model of two folders, by a Router that reads the modules in both."""
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for name in TOWERS:
        rows = json.loads((folder / name / "modules.json").read_text(encoding="utf-8"))
        own = {f"{name}/{row['path']}".rstrip("/"): row["type"] for row in rows}
        types |= own
        structure[name] = list(own)
    own_modules = _add_modules_file(folder, types.values())
    mappings = {str((QUERY, None)): QUERY, str((None, None)): TOWERS[1]}
    parameters = {"default_route": TOWERS[1], "allow_empty_key": True, "route_mappings": mappings}
    content = {"types": types, "structure": structure, "parameters": parameters}
    _write_json(folder / "router_config.json", content)
    kind = f"{EXPORTED}.Towers" if own_modules else ROUTER
    _write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    general = json.loads((folder / TOWERS[1] / GENERAL).read_text(encoding="utf-8"))
    general["prompts"] = _prompts(encoder.tokenizer) or {QUERY: "", TOWERS[1]: ""}
    kept = [getattr(getattr(encoder, name), "truncate_dim", None) for name in TOWERS]
    general["truncate_dim"] = encoder.dimension if any(kept) else None
    general.pop(MAX_LENGTHS, None)
    _write_json(folder / GENERAL, general)


def _add_modules_file(folder: Path, types: Any) -> bool:
    """Copy the file of modules where a class of it is named; returns whether one is."""
    from lit_metric.hub import remote

    needed = any(kind.startswith(f"{EXPORTED}.") for kind in types)
    if needed:
        shutil.copyfile(remote.__file__, folder / f"{EXPORTED}.py")
    return needed


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
