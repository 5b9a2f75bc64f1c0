"""Write docs/losses.md from docs/losses.template, the docstrings of the losses, and docs/losses.json.

    python -m docs.build_losses                                     # after a change of a docstring
    python -m docs.build_losses --measured runs/bench-losses/losses.json  # after make bench-losses

A line ``{{NAME}}`` of the template becomes the section of a loss: what its docstring says, and its arguments
with their defaults by its signature. ``{{measured}}`` becomes the tables of the comparison.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_metric import losses

FOLDER = Path(__file__).parent
TEMPLATE, PAGE, MEASURED = FOLDER / "losses.template", FOLDER / "losses.md", FOLDER / "losses.json"
WIDTH = 118
HIDDEN = {"block_rows": inspect.Parameter.empty, "normalize": False}
"""Arguments that are left out of the tables: always, or at this default."""
LINKS = {
    "alarm on collapse": "errors.md#the-embeddings-have-collapsed",
    "`GuideFilter`": "hard-negatives.md#filter",
}
TITLES = {
    "knn1_accuracy": "1-NN",
    "knn10_accuracy": "10-NN",
    "knn10_accuracy_macro": "10-NN macro",
    "map@r": "MAP@R",
}
DATA = {"banking77": "Banking77", "debtags": "Debian tags"}
ABOUT = """
All losses that learn from classes, each with the arguments shown, at equal encoded items. The learning
rate is the best on validation items with one seed, of three, or up to five where the best is the first or
the last; the scores are those of the test items, means and standard deviations over seeds, with the weights
of the last step. Losses of scores are measured [elsewhere](supervision.md), and `MatryoshkaLoss`,
`SymmetricLoss` and `GuidedLoss` serve other ends. `make bench-losses` measures it again.
"""
ABLATION = ("triplet_hard", "triplet_hard_pairs", "n_pair_grouped", "n_pair")


class Docstring(NamedTuple):
    """A class's docstring in parts.

    Args:
        text: paragraphs and literal blocks.
        after: paragraphs on cost, logs and source.
        arguments: what is said of each.
    """

    text: list[str]
    after: list[str]
    arguments: dict[str, str]


def parse(docstring: str) -> Docstring:
    """Take a docstring apart.

    Example:
        >>> parse('''A loss.
        ...
        ... Logs ``a``.
        ...
        ... Args:
        ...     margin: above 0,
        ...         or not.''')
        Docstring(text=['A loss.'], after=['Logs ``a``.'], arguments={'margin': 'above 0, or not.'})
    """
    body, _, rest = inspect.cleandoc(docstring).partition("\n\nArgs:\n")
    text: list[str] = []
    after: list[str] = []
    for paragraph in re.split(r"\n\n(?! )", body):
        (after if paragraph.startswith(("Cost: ", "Logs ", "Source: ")) else text).append(paragraph)
    section = re.split(r"\n\n(?=\S)", rest)[0]
    named = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return Docstring(text, after, {name: " ".join(said.split()) for name, said in named})


def markdown(text: str, own: str = "") -> str:
    """A paragraph of a docstring as Markdown; losses other than ``own`` link to their sections.

    Example:
        >>> markdown("as ``NCALoss`` of :class:`~lit_metric.losses.SumLoss` with ``a``", "SumLoss")
        'as [`NCALoss`](#ncaloss) of `SumLoss` with `a`'
    """
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text.replace("``", "`"))

    def link(found: re.Match[str]) -> str:
        name = found[1]
        return f"[`{name}`](#{name.lower()})" if name != own and hasattr(losses, name) else found[0]

    for words, target in LINKS.items():
        text = text.replace(words, f"[{words}]({target})")
    return re.sub(r"`(\w+Loss)`", link, text)


def paragraphs(texts: Sequence[str], own: str) -> list[str]:
    """Paragraphs, filled, and literal blocks of YAML, fenced."""
    made = []
    for text in texts:
        prose, _, literal = text.partition("::\n\n")
        colon = ":" if literal else ""
        made.append(fill(markdown(" ".join(prose.split()), own) + colon))
        if literal:
            made.append(f"```yaml\n{textwrap.dedent(literal)}\n```")
    return made


def fill(text: str) -> str:
    """Lines of at most ``WIDTH``, broken at spaces outside of code only."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    return textwrap.fill(whole, WIDTH, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def shown(value: Any) -> str:
    """A default as a YAML has it.

    Example:
        >>> shown(None), shown(0.05), shown("cosine"), shown(inspect.Parameter.empty)
        ('`null`', '0.05', '`cosine`', 'required')
    """
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    return f"`{value}`" if isinstance(value, str) else str(value)


def section(loss: type) -> str:
    """What the page says of a loss.

    Raises:
        ValueError: its docstring says nothing of an argument, or something of one that it lacks.
    """
    parsed, signature = parse(loss.__doc__ or ""), inspect.signature(loss)
    if set(parsed.arguments) != set(signature.parameters):
        odd = set(parsed.arguments) ^ set(signature.parameters)
        raise ValueError(
            f"{loss.__name__}: the docstring and the signature differ in {', '.join(sorted(odd))}"
        )
    rows = ["| argument | default | |", "| --- | --- | --- |"]
    for name, parameter in signature.parameters.items():
        if name in HIDDEN and HIDDEN[name] in (inspect.Parameter.empty, parameter.default):
            continue
        said = markdown(parsed.arguments[name], loss.__name__).replace("|", r"\|")
        rows.append(f"| `{name}` | {shown(parameter.default)} | {said} |")
    parts = [
        f"## {loss.__name__}",
        *paragraphs(parsed.text, loss.__name__),
        *(["\n".join(rows)] if len(rows) > 2 else []),
        *paragraphs([" ".join(parsed.after)], loss.__name__),
    ]
    return "\n\n".join(parts)


def measured(found: Mapping[str, Any]) -> str:
    """The tables of a comparison, from ``losses.json`` of the benchmark; ``{}`` where there is none."""
    parts = ["## Measured"]
    if not found:
        return "\n\n".join([*parts, "Not measured yet; `make bench-losses` does it."])
    parts.append(fill(" ".join(ABOUT.split())))
    sets = [name for name in DATA if name in found]
    for name in sets:
        parts += [f"### {DATA[name]}", fill(setting(found[name]["settings"])), table(found[name])]
    if any(set(ABLATION) <= set(found[name]["losses"]) for name in sets):
        parts += ["### Batches of few classes, or pairs of many", ablation(found, sets)]
    return "\n\n".join(parts)


def setting(settings: Mapping[str, Any]) -> str:
    """How a data set was used, in words."""
    by = TITLES.get(settings["choose_by"], settings["choose_by"])
    return (
        f"{settings['budget']:,} encoded items in each fit, {settings['seeds']} seeds, learning rate by the "
        f"{by} of validation items, precision {settings['precision']}. Who searches whom: "
        f"{settings['protocol']}."
    )


def table(found: Mapping[str, Any]) -> str:
    """A row for each loss, the best by the measure that chose first, then those that were never tested."""
    rows, by = dict(found["losses"]), found["settings"]["choose_by"]
    order = sorted(rows, key=lambda name: rows[name][by]["mean"] if by in rows[name] else -1.0, reverse=True)
    lines = [
        f"| loss | batches | rate | {' | '.join(TITLES.values())} | |",
        "| --- " * (len(TITLES) + 4) + "|",
    ]
    for name in order:
        row = rows[name]
        what = "untrained" if name == "untrained" else f"{name}: {called(row)}"
        rate = "" if row.get("lr") is None else f"{row['lr']:g}"
        cells = [what, batches(row["planner"]) if "planner" in row else "", rate, *scores(row), remark(row)]
        lines.append(" ".join(["|", *(f"{cell} |".lstrip() for cell in cells)]))
    return "\n".join(lines)


def ablation(found: Mapping[str, Any], sets: Sequence[str]) -> str:
    """Batch-hard triplets and N-pair, each in batches of one size that are made in two ways."""
    lines = [f"| data | loss | batches | {' | '.join(TITLES.values())} |", "| --- " * (len(TITLES) + 3) + "|"]
    for name in sets:
        rows = found[name]["losses"]
        for loss in ABLATION:
            if loss in rows:
                cells = [DATA[name], called(rows[loss]), batches(rows[loss]["planner"]), *scores(rows[loss])]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def called(spec: Mapping[str, Any]) -> str:
    """A loss with its arguments.

    Example:
        >>> called({"class_path": "lit_metric.losses.NCALoss", "init_args": {"temperature": 0.1}})
        '`NCALoss(temperature=0.1)`'
    """
    return f"`{_call(spec)}`"


def _call(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = ", ".join(f"{key}={_call(given)}" for key, given in value["init_args"].items())
        return value["class_path"].rpartition(".")[2] + (f"({arguments})" if arguments else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_call(given)}" for key, given in value.items())
    return str(value)


def batches(planner: Mapping[str, Any]) -> str:
    """A planner's batches in short.

    Example:
        >>> batches({"class_path": "lit_metric.batching.NPairPlanner", "init_args": {"classes": 8}})
        'N-pair 8×2'
    """
    given = planner["init_args"]
    return {
        "PKPlanner": "P×K {classes}×{per_class}",
        "NPairPlanner": "N-pair {classes}×2",
        "ShufflePlanner": "shuffled {batch_size}",
    }[planner["class_path"].rpartition(".")[2]].format(**given)


def scores(row: Mapping[str, Any]) -> list[str]:
    """The cells of the measures, empty where there is none."""
    cells = []
    for name in TITLES:
        value = row.get(name)
        spread = f" ± {value['deviation']:.3f}" if value and len(value["values"]) > 1 else ""
        cells.append(f"{value['mean']:.3f}{spread}" if value else "")
    return cells


def remark(row: Mapping[str, Any]) -> str:
    """What went wrong, and what a larger grid of rates might change."""
    status = row["status"]
    said = [
        f"{status.count(name)} of {len(status)} {name}"
        for name in ("collapsed", "diverged")
        if name in status
    ]
    return ", ".join([*said, *(["rate at the edge of its grid"] if row.get("at_edge") else [])])


def page() -> str:
    """The whole of docs/losses.md."""
    found = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}

    def filled(place: re.Match[str]) -> str:
        return measured(found) if place[1] == "measured" else section(getattr(losses, place[1]))

    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"^\{\{(\w+)\}\}$", filled, template, flags=re.MULTILINE)


def write(
    arguments: Sequence[str] | None,
    program: str,
    about: str | None,
    kept: Path,
    place: Path,
    page: Callable[[], str],
) -> None:
    """The command line of a page that is made from measured results.

    Args:
        arguments: given ones; None: those of the process.
        program, about: its name and what its help says.
        kept: the copy of the results in docs/.
        place: of the page.
        page: makes its text.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(program, description=about, formatter_class=formatter)
    parser.add_argument("--measured", type=Path, help=f"{kept.name} of a comparison, to be kept in docs/")
    given = parser.parse_args(arguments)
    if given.measured is not None:
        content = json.loads(given.measured.read_text(encoding="utf-8"))
        kept.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    place.write_text(page(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    write(arguments, "docs.build_losses", __doc__, MEASURED, PAGE, page)


if __name__ == "__main__":
    main()
