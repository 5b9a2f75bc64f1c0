"""From a table to a config that trains on it, with remarks for people."""

from __future__ import annotations

import contextlib
import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_metric import MetricDataModule
from lit_metric.batching import BatchPlanner, PairPlanner, PKPlanner, ScoredPairPlanner
from lit_metric.cli.defaults import defaults
from lit_metric.commands.columns import SEPARATOR_OPTIONS, Choice, ColumnGuesser, names_in, repeated
from lit_metric.commands.sizes import Sizes, sizes_of
from lit_metric.data import CsvOptions, DataError, Judgements, Labels, Pairs, Supervision, Triples, read_table
from lit_metric.data.errors import listed
from lit_metric.data.evaluated import class_counts
from lit_metric.data.progress import stage
from lit_metric.data.readers import READERS
from lit_metric.data.sources import guess_supervision
from lit_metric.data.table import Table

SAMPLE = 20_000
"""Texts whose lengths and scripts are looked at, drawn at random."""
BATCH = 256
STEPS = 400
"""Steps for which epochs are planned."""
TOKENS_IN_MEMORY = 32_768
"""Tokens of a batch from which a config computes activations again, to save memory."""
WIDE = 384
"""Hidden size above which a backbone gets a smaller learning rate."""


@dataclass
class Suggestion:
    """A config, and what was noticed on the way.

    Args:
        source: of the training rows.
        what: the kind of data, in words.
        columns: lines on the columns that were chosen.
        noticed: lines on what a person should know.
        model, data, trainer: sections of the config; each option with its value and a comment.
        of_sets: whether items are sets of tags.
        searched: the options of ``search`` that find a row of the table, or of the texts that it names.
    """

    source: str
    what: str
    columns: list[str] = field(default_factory=list)
    noticed: list[str] = field(default_factory=list)
    model: dict[str, tuple[Any, str]] = field(default_factory=dict)
    data: dict[str, tuple[Any, str]] = field(default_factory=dict)
    trainer: dict[str, tuple[Any, str]] = field(default_factory=dict)
    of_sets: bool = False
    searched: str = ""

    def summary(self) -> list[str]:
        """Lines for people."""
        lines = [f"{self.source}: {self.what}", *(f"  {line}" for line in self.columns)]
        return [*lines, *(["Noticed:", *(f"  - {line}" for line in self.noticed)] if self.noticed else [])]

    def config(self, command: str = "") -> str:
        """The config as YAML, with comments.

        Args:
            command: the arguments of ``init``, for the first comment.
        """
        lines = [f"# Written by lit-metric init {_one_line(command or self.source)}: {_one_line(self.what)}."]
        lines += [f"# {_one_line(line)}" for line in (*self.columns, *self.noticed)]
        for name in ("model", "data", "trainer"):
            lines.append(f"{name}:")
            section: dict[str, tuple[Any, str]] = getattr(self, name)
            encoder = {key: each for key, each in section.items() if key.startswith("encoder.")}
            if encoder:
                lines.append("  encoder:")
                lines += _options({key.partition(".")[2]: each for key, each in encoder.items()}, "    ")
            lines += _options({key: each for key, each in section.items() if key not in encoder}, "  ")
        return "\n".join(lines) + "\n"

    def options(self) -> dict[str, Any]:
        """The same as nested options."""
        content: dict[str, Any] = yaml.safe_load(self.config())
        return content


def _one_line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _options(options: dict[str, tuple[Any, str]], indent: str) -> Iterator[str]:
    for name, (value, comment) in options.items():
        note = f"  # {_one_line(comment)}" if comment else ""
        if name == "init_args":  # of an encoder of several parts, too long for one line
            yield f"{indent}{name}:{note}"
            yield from _options({part: (each, "") for part, each in value.items()}, f"{indent}  ")
            continue
        style: dict[str, Any] = {"default_flow_style": True, "allow_unicode": True, "sort_keys": False}
        shown = yaml.safe_dump(value, width=math.inf, **style).removesuffix("\n").removesuffix("\n...")
        yield f"{indent}{name}: {shown}{note}"


def suggest(
    sources: dict[str, Any],
    given: dict[str, Any] | None = None,
    entities: str | None = None,
    backbone: str | None = None,
    csv: CsvOptions | None = None,
) -> Suggestion:
    """What ``lit-metric init`` writes and says.

    Args:
        sources: ``train``, and ``validation`` and ``test`` if there are such; see
            :func:`~lit_metric.data.read_table`.
        given: columns by option, such as ``{"text": "question"}``; the others are guessed.
        entities: table with the texts of a graph's entities.
        backbone: of the encoder; that of ``fit`` if None.
        csv: how CSV files are written.

    Raises:
        DataError: when the table can't be used.
    """
    train = sources["train"]
    table = read_table(train, csv=csv)
    supervision, options, choice, found = _supervision(table, given or {}, entities)
    found.source = table.name
    data = MetricDataModule(**sources, supervision=supervision, csv=csv, bad_rows="skip")
    data.read()
    backbone = backbone or defaults()["model"]["init_args"]["encoder"]["init_args"]["backbone"]
    found.of_sets = data.items.kind == "set"
    found.searched = _search_options(str(train), supervision, found.of_sets)
    _notice_rows(found, table, data, choice)
    for name, source in sources.items():
        if isinstance(source, str | Path):  # not a table in memory, which a config can't name
            found.data[name] = str(source), ""
    found.data |= options
    if csv is not None:
        found.data["csv"] = {name: value for name, value in vars(csv).items() if value is not None}, ""
    if len(data.problems):
        found.data["bad_rows"] = "skip", "rejected.parquet in the run's folder lists them"
    with stage("reading the backbone"):
        sizes = sizes_of(backbone)
    _encoder(found, data, backbone, sizes)
    _training(found, data, sizes)
    return found


def _supervision(
    table: Table, given: dict[str, Any], entities: str | None
) -> tuple[Supervision, dict[str, tuple[Any, str]], Choice | None, Suggestion]:
    """What is known of the items, the options that say so, and the columns if they were chosen here."""
    named = any(value is not None for value in given.values())
    lower = {name.lower() for name in table.columns}
    if not named and (entities is not None or {"head", "relation", "tail"} <= lower):
        if entities is None:
            folder = Path(table.name).parent
            near = next((path for end in READERS if (path := folder / f"entities{end}").is_file()), None)
            entities = None if near is None else str(near)
        if entities is None:
            raise DataError(f"{table.layout}, facts of a graph: name the table of its texts with --entities")
        known = {"class_path": "Triples", "init_args": {"entities": entities}}
        found = Suggestion(table.name, f"{len(table):,} facts of a graph", [f"texts of entities: {entities}"])
        return Triples(entities), {"supervision": (known, "")}, None, found
    guessed: Supervision | None = None
    if not named:
        with contextlib.suppress(DataError):  # ids of texts that aren't there may be labels
            guessed = guess_supervision(table)
    if isinstance(guessed, Judgements):
        known = {"queries": str(guessed.queries), "corpus": str(guessed.corpus)}
        found = Suggestion(table.name, f"{len(table):,} judgements of documents for queries")
        found.columns = [f"{name}: {path}" for name, path in known.items()]
        return guessed, {"supervision": ({"class_path": "Judgements", "init_args": known}, "")}, None, found
    choice = ColumnGuesser(table, given).choose()
    found = Suggestion(table.name, f"{len(table):,} rows, {choice.what}")
    for option, column in choice.columns.items():
        why = choice.why.get(option)
        guess = f" ({why}; --{option} names another)" if why else ""
        found.columns.append(f"{option}: {', '.join(names_in([column]))}{guess}")
    found.columns += choice.unsure
    arguments = dict(choice.columns)
    if choice.paired:
        arguments["symmetric"] = choice.symmetric
        known = {"class_path": "Pairs", "init_args": arguments}
        note = "" if choice.symmetric else "queries and documents"
        return Pairs(**arguments), {"supervision": (known, note)}, choice, found
    for option, separator in choice.separators.items():
        arguments[SEPARATOR_OPTIONS[option]] = separator
    if "labels" in arguments:
        known = {"class_path": "Labels", "init_args": arguments}
        return Labels(**arguments), {"supervision": (known, "")}, choice, found
    options = {name: (value, choice.why.get(name, "")) for name, value in arguments.items()}
    return Labels(**arguments), options, choice, found


def _search_options(train: str, supervision: Supervision, of_sets: bool) -> str:
    """The options of ``search`` for the texts of the table, or those that it names."""
    corpus, options = train, dict[str, Any]()
    if isinstance(supervision, Pairs):
        options["text"] = supervision.positive
    elif isinstance(supervision, Labels):
        options = {"text": supervision.text, "tags": supervision.tags}
        options["tag_separator"] = supervision.tag_separator
    elif isinstance(supervision, Judgements | Triples):
        named = supervision.corpus if isinstance(supervision, Judgements) else supervision.entities
        corpus = str(named)
    given = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    query = "--query TAGS" if of_sets else '--query "a text"'
    return " ".join(["--corpus", shlex.quote(corpus), *given, query])


def _notice_rows(found: Suggestion, table: Table, data: MetricDataModule, choice: Choice | None) -> None:
    """Empty cells, rows that can't be used, duplicates, and classes of one item."""
    note = found.noticed.append
    if choice is not None:
        used = names_in(choice.columns.values())
        if not data.dataset.held_out and all(data.sources[name] is None for name in ("validation", "test")):
            used.append(table.guess(("split",)) or "")  # names the split of each row
        unused = [name for name in table.columns if name not in used]
        if unused:
            note(f"columns that are not used: {listed(unused, 8)}")
    if len(data.problems):
        note(f"rows that can't be used are left out: {data.problems.report()}")
    labels = getattr(data.relations, "labels", None)
    items = data.items
    if labels is not None:
        contents = items.fingerprints.tolist()
        if copies := repeated(contents):
            own = labels.tolist()
            names = [tuple(sorted(each)) if isinstance(each, list) else each for each in own]
            contradicting = len({*zip(contents, names, strict=True)}) - len({*contents})
            also = f"; {contradicting:,} of them under another label" if contradicting > 0 else ""
            note(f"{copies:,} of {len(contents):,} items repeat an earlier one{also}")
        counts = class_counts(data.relations, None)
        sizes = counts[counts > 0]
        least, middle, most = (int(each) for each in (sizes.min(), sizes.median(), sizes.max()))
        each = f"{least:,} to {most:,} items, half of them with {middle:,} or fewer"
        note(f"{len(sizes):,} classes of {each if least < most else f'{most:,} items each'}")
        if len(sizes) == 1:
            note("there is one class only, so there is nothing to tell apart")
        if single := int((sizes == 1).sum()):
            classes = "1 class has" if single == 1 else f"{single:,} classes have"
            note(f"{classes} one item, which serves as a negative and as a neighbour only")
    held = "held out of them" if data.dataset.held_out else "given"
    splits = {name: len(data.splits[name]) for name in ("train", "validation", "test") if name in data.splits}
    note(", ".join(f"{count:,} {name}" for name, count in splits.items()) + f" items; validation is {held}")


def _encoder(found: Suggestion, data: MetricDataModule, backbone: str, sizes: Sizes) -> None:
    """The section of the encoder, with lengths that suit the texts."""
    random = np.random.default_rng(0)
    vocabulary = data.vocabulary.texts
    chosen = range(len(vocabulary))
    places = sorted(random.choice(len(vocabulary), SAMPLE, replace=False)) if len(chosen) > SAMPLE else chosen
    texts = [vocabulary[int(place)] for place in places]
    scripts = _scripts(texts)
    total = sum(scripts.values())
    if total:
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in scripts.most_common(4))
        unknown = "languages of one script are not told apart"
        found.noticed.append(f"texts by script: {shares}, by their letters; {unknown}")
    inside: dict[str, tuple[Any, str]] = {"backbone": (backbone, "or a Hugging Face id, or a folder")}
    if sizes.tokenizer is None:
        found.noticed.append(f"{backbone} can't be read here, so lengths are its own: {sizes.problem}")
    else:
        inside |= _lengths(found, sizes, texts)
    if found.of_sets:
        tags = [text for text in texts if " " not in text]
        seen = [mark for mark in ("::", "_", "-", ":") if 5 * sum(mark in tag for tag in tags) > len(tags)]
        text = {name: value for name, (value, _) in inside.items() if name != "recompute"}
        if tags and seen:
            text["replacements"] = dict.fromkeys(seen, " ")
        heads = {"heads": 4, "hidden": 128, "context": True}
        last = {"dimension": sizes.hidden or WIDE, "dropout": 0.3}
        arguments = {
            "text": {**text, "freeze": True},
            "pooling": {"class_path": "AttentionPooling", "init_args": heads},
            "projection": [{"dimension": 1024, "activation": "gelu"}, last],
            "tag_dropout": 0.2,
        }
        why = "the backbone is frozen: each tag passes through it once"
        found.model["encoder.class_path"] = "SetEncoder", "pools the vectors of an item's tags"
        found.model["encoder.init_args"] = arguments, why
        return
    if sizes.has_embeddings:
        inside["freeze"] = ["embeddings"], "the table of token vectors; false trains all"
    inside["dropout"] = 0.0, ""
    found.model |= {f"encoder.{name}": each for name, each in inside.items()}


def _lengths(found: Suggestion, sizes: Sizes, texts: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """The options that follow from the lengths of texts."""
    lengths, unknown = sizes.measure(texts)
    note = found.noticed.append
    what = "tags" if found.of_sets else "texts"
    note(f"{what} have {np.median(lengths):.0f} tokens in the middle, {lengths.max()} at most")
    length = max(16, math.ceil(np.quantile(lengths, 0.99) / 16) * 16)
    length = min(length, sizes.positions or length)
    if longer := int((lengths > length).sum()):
        note(f"{longer / len(lengths):.1%} of the {what} are longer than {length} tokens and are cut")
    if unknown > 0.02:
        note(
            f"{unknown:.0%} of the tokens are unknown to the backbone, which was trained on another language "
            "or script: name a multilingual one with --backbone"
        )
    options: dict[str, tuple[Any, str]] = {
        "max_length": (length, f"tokens; the longest of the {what} has {lengths.max()}")
    }
    if np.minimum(lengths, length).mean() * BATCH > TOKENS_IN_MEMORY:
        options["recompute"] = "chunks", "long texts: keeps memory flat, and a step takes longer"
    return options


def _scripts(texts: Sequence[str]) -> Counter[str]:
    """How many texts are mainly written in each script, by the names of their letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        letters = Counter(
            unicodedata.name(each, "?").split()[0].lower() for each in text[:500] if each.isalpha()
        )
        if letters:
            counts[letters.most_common(1)[0][0]] += 1
    return counts


def _training(found: Suggestion, data: MetricDataModule, sizes: Sizes) -> None:
    """Loss, learning rate, planner and epochs."""
    train = data.splits["train"]
    planned = data.dataset.planned
    planner: BatchPlanner
    if planned == "classes":
        counts = class_counts(data.relations, train)
        present = counts[counts > 0]
        most = max(8, min(BATCH, len(train) // 4))
        each = min(4 if not found.of_sets else 8, max(2, int(present.float().median())))
        classes = max(min(2, len(present)), min(64, len(present), most // each))
        if classes == len(present):
            each = max(each, min(most // classes, int(present.float().median())))
        arguments: dict[str, Any] = {"classes": classes, "per_class": each}
        if 2 * int((present == 1).sum()) > len(present):
            arguments |= {"classes": min(classes, int((present > 1).sum())), "smallest_class": 2}
        shown = {"class_path": "PKPlanner", "init_args": arguments}
        planner = PKPlanner(**arguments)
        note = f"{arguments['classes']} classes × {each} items in a batch"
    elif planned == "scores":
        size = _power(len(train) // 4, 8, 128)
        together = not getattr(data.relations, "symmetric", True)
        arguments = {"batch_size": size, **({"together": True} if together else {})}
        shown = {"class_path": "ScoredPairPlanner", "init_args": arguments}
        planner, note = ScoredPairPlanner(size, together), "scored pairs in a batch"
    else:
        negatives = int("train" in data.dataset.triplets)
        size = _power(len(train) // 4, 8, 64 if negatives else BATCH)
        arguments = {"batch_size": size, **({"negatives": 1} if negatives else {})}
        shown = {"class_path": "PairPlanner", "init_args": arguments}
        planner, note = PairPlanner(**arguments), "the other pairs of a batch are negatives"
    batches = planner.length(train, data.relations, data.seed)
    rate = 5e-4 if found.of_sets else 4e-4 if planned == "classes" else 1e-4
    why = ""
    if sizes.hidden > WIDE and not found.of_sets:
        rate, why = rate / 8, "a smaller one than for a small backbone"
    loss: Any = {"class_path": "InfoNCELoss", "init_args": {"temperature": 0.05}}
    if planned == "scores":
        loss = {"class_path": "CoSENTLoss"}
    epochs = min(max(round(STEPS / batches), 2), 20)
    found.model |= {"loss": (loss, ""), "lr": (rate, why)}
    found.data["planner"] = shown, note
    found.trainer["max_epochs"] = epochs, f"{batches:,} batches each; training stops earlier without a gain"


def _power(wanted: int, least: int, most: int) -> int:
    """The power of two at or below ``wanted``, within bounds.

    Example:
        >>> _power(100, 8, 256), _power(3, 8, 256)
        (64, 8)
    """
    return min(max(1 << max(wanted, 1).bit_length() - 1, least), most)
