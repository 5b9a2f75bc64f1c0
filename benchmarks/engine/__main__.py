"""The engine beside its peers, on this machine.

    LIT_METRIC_DATA=DIR python -m benchmarks.engine --out DIR
    LIT_METRIC_DATA=DIR python -m benchmarks.engine --out DIR --only training encoding

- ``training``: texts a second in training steps, beside sentence-transformers;
- ``encoding``: texts a second, beside the fastest of ONNX Runtime, OpenVINO and sentence-transformers;
- ``sets``: items a second in training on sets of tags, beside sentence-transformers on joined tags;
- ``losses``: time and memory of each loss alone, beside pytorch-metric-learning;
- ``start``: seconds until the first step of a fit is done, and where they go;
- ``memory``: memory and time of large batches, beside steps that keep all and beside the peer's cached loss;
- ``lora``: a training step with LoRA beside one of all parameters, its time and memory;
- ``job``: peak memory of ``lit-metric encode`` while rows grow;
- ``disk``: time and memory of reading, tokenising and planning many rows;
- ``active``: what it would save to differentiate only the texts that a hinge loss has a gradient for;
- ``quality``: scores after 300 s of training on Banking77, every setting chosen on validation. It takes
  hours, so it runs only where ``--only`` names it.

Contenders take turns in one process (A B A B ...), each with the settings that were fastest for it; they are
printed. Each result is a file ``NAME.json`` in OUT with ``ours``, ``peer``, ``ratio`` (higher is better for
lit-metric), ``settings`` and every round. A second call measures only what is missing, or has other settings,
versions or another processor. ``table.md`` has all results of OUT, and a plot ``NAME.png`` shows how a cost
grows with the work. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.engine.measures import processor
from benchmarks.engine.show import markdown_table, plot_growth, terminal_table
from benchmarks.results import BenchmarkError, read_json, short

MODULES = (
    "training",
    "encoding",
    "sets",
    "losses",
    "start",
    "memory",
    "lora",
    "job",
    "disk",
    "active",
    "quality",
)
"""The modules of this package that measure, in the order in which they run. Each has
``measure(out: Path, quick: bool) -> list[dict[str, Any]]``."""

LONG = frozenset({"quality"})
"""Those that take hours, and run only where ``--only`` names them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: with status 1, after all others have run, if a module failed.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.engine", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    default = [name for name in MODULES if name not in LONG]
    parser.add_argument("--only", nargs="+", choices=MODULES, default=default, help="(%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="less work and fewer rounds: does it run at all?"
    )
    given = parser.parse_args(arguments)
    out, console = given.out.resolve(), Console()
    out.mkdir(parents=True, exist_ok=True)
    console.print(processor())
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in given.only:
        try:
            found = importlib.import_module(f"benchmarks.engine.{name}").measure(out, given.quick)
        except BenchmarkError as error:
            print(f"benchmarks.engine: {name}: {error}", flush=True)
            failed.append(name)
            continue
        except Exception:  # what was measured so far is kept, and the other modules still run
            traceback.print_exc()
            failed.append(name)
            continue
        for result in found:
            machine = ("versions", "processor")
            shown = {key: value for key, value in result["settings"].items() if key not in machine}
            console.print(result["name"], shown)
            if "growth" in result:
                plot_growth(out / f"{result['name']}.png", result["title"], result["growth"])
        results += found
        whole = [each for path in sorted(out.glob("*.json")) if "ratio" in (each := read_json(path))]
        (out / "table.md").write_text(markdown_table(whole), encoding="utf-8")
    console.print(terminal_table(results))
    print(f"The numbers are in {short(out)}.")
    if failed:
        raise SystemExit(f"benchmarks.engine: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
