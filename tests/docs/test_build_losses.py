"""The page of losses is what its generator writes, and the generator writes what it is given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from benchmarks.losses.table import LOSSES, SETUPS
from benchmarks.short_fits import MEASURES
from docs import build_losses
from docs.build_losses import ABLATION, DATA, TITLES, measured, section
from lit_metric.losses import InfoNCELoss, MetricLoss


def test_the_page_is_what_docstrings_and_measurements_make_of_it() -> None:
    committed = build_losses.PAGE.read_text(encoding="utf-8")
    assert committed == build_losses.page(), "run python -m docs.build_losses, and commit docs/losses.md"


class Small(MetricLoss):
    """Small: s_p − s_n, of ``Small`` and :class:`~lit_metric.losses.NCALoss`.

    It is short and, as ``GuideFilter`` is not, made of two
    lines::

        model:
          loss: {class_path: Small}

    And it ends here.

    Cost: none.

    Logs ``small``.

    Args:
        margin: above 0, of ``a | b`` or
            more.
        name: of it.
        normalize: never shown where it is false.
        block_rows: never shown.

    Raises:
        ValueError: always.
    """

    def __init__(
        self, margin: float, name: str | None = None, normalize: bool = False, block_rows: int = 4
    ) -> None: ...


def test_a_section_is_the_docstring_and_the_signature() -> None:
    assert section(Small) == (
        "## Small\n\n"
        "Small: s_p − s_n, of `Small` and [`NCALoss`](#ncaloss).\n\n"
        "It is short and, as [`GuideFilter`](hard-negatives.md#filter) is not, made of two lines:\n\n"
        "```yaml\nmodel:\n  loss: {class_path: Small}\n```\n\n"
        "And it ends here.\n\n"
        "| argument | default | |\n"
        "| --- | --- | --- |\n"
        "| `margin` | required | above 0, of `a \\| b` or more. |\n"
        "| `name` | `null` | of it. |\n\n"
        "Cost: none. Logs `small`."
    )


def test_defaults_are_those_of_the_signature() -> None:
    written = section(InfoNCELoss)
    for name, parameter in inspect.signature(InfoNCELoss).parameters.items():
        value = parameter.default
        value = {False: "`false`"}.get(value, f"`{value}`") if isinstance(value, str | bool) else value
        assert (f"| `{name}` | {value} |" in written) == (name not in ("normalize", "block_rows"))


def test_a_docstring_that_forgets_an_argument_is_refused() -> None:
    class Forgetful(Small):
        __doc__ = (Small.__doc__ or "").replace("name: of it.", "title: of it.")

    with pytest.raises(ValueError, match="Forgetful: the docstring and the signature differ in name, title"):
        section(Forgetful)


def spread(*values: float) -> dict[str, Any]:
    mean = sum(values) / len(values)
    return {"mean": mean, "deviation": abs(values[-1] - values[0]) / 2**0.5, "values": [*values]}


def row(name: str, lr: float | None, scores: list[float], status: list[str], at_edge: bool = False) -> Any:
    entry, setup = LOSSES[name], SETUPS["banking77"]
    measures = {key: spread(*scores) for key in MEASURES} if scores else {}
    return {
        **entry.loss,
        "planner": entry.planner(setup),
        "lr": lr,
        "status": status,
        "at_edge": at_edge,
        **measures,
    }


def found() -> dict[str, Any]:
    settings = {"budget": 2560, "seeds": 2, "precision": "bf16-mixed", "choose_by": "map@r"}
    settings["protocol"] = "training texts vote"
    good, bad = ["trained"] * 2, ["diverged"] * 3
    rows = {
        "untrained": {"status": ["untrained"], **{key: spread(0.5) for key in MEASURES}},
        "circle": row("circle", None, [], bad),
        "nca": row("nca", 3e-4, [0.60, 0.64], good),
        "triplet_hard": row("triplet_hard", 3e-5, [0.7, 0.72], ["trained", "collapsed"], True),
        **{name: row(name, 1e-4, [0.65, 0.65], good) for name in ABLATION[1:]},
    }
    return {"banking77": {"settings": settings, "losses": rows}}


def test_measured_losses_are_listed_from_the_best_and_nothing_is_hidden() -> None:
    written = measured(found())
    assert (
        "2,560 encoded items in each fit, 2 seeds, learning rate by the MAP@R of validation items, precision "
        "bf16-mixed." in " ".join(written.split())
    )
    lines = [line for line in written.partition("### Batches")[0].splitlines() if line.startswith("| ")][2:]
    one = " | 0.620 ± 0.028" * 4
    assert [line.split(":")[0].strip("| ").split(" |")[0] for line in lines] == [
        "triplet_hard",
        "triplet_hard_pairs",
        "n_pair_grouped",
        "n_pair",
        "nca",
        "untrained",
        "circle",
    ]
    assert lines[4] == f"| nca: `NCALoss(temperature=0.05)` | P×K 32×4 | 0.0003{one} | |"
    assert lines[0].endswith("| 0.710 ± 0.014 | 1 of 2 collapsed, rate at the edge of its grid |")
    assert lines[5] == "| untrained | | | 0.500 | 0.500 | 0.500 | 0.500 | |"
    assert lines[6] == "| circle: `CircleLoss` | P×K 32×4 | | | | | | 3 of 3 diverged |"
    columns = {line.count(" |") for line in lines}
    assert columns == {len(TITLES) + 4}


def test_the_ablation_has_both_losses_in_both_kinds_of_batch() -> None:
    lines = [
        line for line in measured(found()).partition("### Batches")[2].splitlines() if "Banking77 |" in line
    ]
    hard = "`TripletLoss(mining=hard, margin=soft, distance=euclidean)`"
    assert [line.split(" | ")[1:3] for line in lines] == [
        [hard, "P×K 32×4"],
        [hard, "P×K 64×2"],
        ["`NPairLoss`", "P×K 32×4"],
        ["`NPairLoss`", "N-pair 64×2"],
    ]


def test_without_measurements_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured({}).endswith("Not measured yet; `make bench-losses` does it.")
    assert set(TITLES) == set(MEASURES)
    assert set(DATA) == set(SETUPS)
    for name in ("MEASURED", "PAGE"):
        monkeypatch.setattr(build_losses, name, tmp_path / name)
    given = tmp_path / "losses.json"
    given.write_text('{"environment": {}}')
    build_losses.main(["--measured", str(given)])
    assert (tmp_path / "MEASURED").read_text() == '{\n "environment": {}\n}\n'
    assert (tmp_path / "PAGE").read_text() == build_losses.page()
