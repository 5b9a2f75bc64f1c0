"""What the engine takes on a GPU, beside sentence-transformers: no network, within eight minutes.

    python -m benchmarks.engine.gpu --out DIR
    python -m benchmarks.engine.gpu --out DIR --device cpu --quick   # a rehearsal without a GPU

OUT/gpu.json has for each part ``ours``, ``peer`` and ``ratio`` (higher is better for us):

- ``training``: texts a second in steps under autocast. Ours is packed, in bfloat16; without dropout PyTorch's
  attention of variable length is used. The peer has bfloat16 or float16, and ``sdpa``, ``eager`` or, where
  it is installed, flash attention, for which it removes padding: whichever is fastest;
- ``encoding``: texts a second, each with its fastest batch;
- ``memory``: seconds and peak memory of a step with InfoNCE over 4k, 16k and 64k pairs, by ``recompute:
  chunks`` and by the peer's cached loss, both with a budget of tokens;
- ``tests``: what ``pytest -m gpu`` says here;
- ``mining``: seconds of an epoch while negatives are mined on the same GPU, and without, and how long
  training waited.

``training`` and ``encoding`` run on MiniLM-L6 and on a random model with the shape of BERT-base. Texts are
made of the questions that ship with the project. A part that begins after ``--minutes`` is left out, and
says so.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import throughput
from benchmarks.engine import backends
from benchmarks.engine.encoding import tuned
from benchmarks.engine.measures import OURS, PACKAGES, compared, fastest, growth, in_turn, processor
from benchmarks.engine.training import PEER, batches, on
from benchmarks.mining import fits, modes
from benchmarks.mining.corpora import Corpus
from benchmarks.peer import BACKBONE
from benchmarks.results import REPOSITORY, BenchmarkError, environment, short, write_json
from lit_metric import TextEncoder
from lit_metric.data.ragged import EncoderInput
from lit_metric.encoders.pretrained import locate
from lit_metric.losses import InfoNCELoss

QUESTIONS = REPOSITORY / "data" / "questions.csv"
CLASSES = 77
FILE = "gpu.json"
LONGEST_STEP = 20.0
"""Seconds; a contender whose step took longer isn't measured on more pairs."""


class Task(NamedTuple):
    """What all parts know.

    Args:
        device: ``cuda``, or ``cpu`` for a rehearsal.
        quick: little work.
        folder: for files.
    """

    device: str
    quick: bool
    folder: Path

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def done(self, work: Callable[[], Any]) -> Callable[[], None]:
        """``work``, which returns when the device is done with it."""

        def do() -> None:
            work()
            self.wait()

        return do

    def release(self) -> None:
        """Give memory back."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def backbones(self) -> Iterator[tuple[str, str]]:
        """Name and folder of each backbone."""
        yield "MiniLM-L6", BACKBONE
        from transformers import AutoTokenizer, BertConfig, BertModel

        small: dict[str, Any] = {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 128,
        }
        folder = self.folder / "base"
        torch.manual_seed(0)
        BertModel(BertConfig(**(small if self.quick else {}))).save_pretrained(folder)
        AutoTokenizer.from_pretrained(locate(BACKBONE)).save_pretrained(folder)
        yield "BERT-base, random", str(folder)


def texts_of(count: int, classes: int = CLASSES) -> tuple[list[str], list[str]]:
    """Different texts of one to four questions, and a label of each; the same at every call."""
    with QUESTIONS.open(newline="", encoding="utf-8") as file:
        questions = [row["text"] for row in csv.DictReader(file)]
    draw = random.Random(0)
    texts: dict[str, str] = {}
    while len(texts) < count:
        chosen = draw.sample(range(len(questions)), 1 + draw.randrange(4) if texts else 1)
        texts.setdefault(" ".join(questions[place] for place in chosen), str(chosen[0] % classes))
    return [*texts], [*texts.values()]


def attentions() -> list[str]:
    """Those of transformers that can run here."""
    flash = importlib.util.find_spec("flash_attn") is not None and torch.cuda.is_available()
    return ["sdpa", "eager", *(["flash_attention_2"] if flash else [])]


def training(task: Task) -> dict[str, Any]:
    """By backbone and dropout."""
    size, count, rounds = (16, 1, 1) if task.quick else (128, 8, 5)
    drawn = batches(*texts_of(4 * size * count), size, count)
    dtypes = {"bf16": torch.bfloat16, **({} if task.device == "cpu" else {"fp16": torch.float16})}
    found = {}
    for (name, folder), dropout in product(task.backbones(), (0.1, 0.0)):
        half = partial(throughput.half, device=task.device)
        ours = half(throughput.ours({"backbone": folder, "dropout": dropout}, task.device))
        peers = {}
        for (precision, dtype), attention in product(dtypes.items(), attentions()):
            step = throughput.peer(folder, attention, "ranking", dropout, device=task.device)
            peers[f"{precision}, {attention}"] = half(step, dtype=dtype)
        tried = in_turn({each: task.done(on(step, drawn[:2])) for each, step in peers.items()}, 2)
        chosen = fastest(tried)
        both = {OURS: task.done(on(ours, drawn)), PEER: task.done(on(peers[chosen], drawn))}
        seconds = in_turn(both, rounds)
        rates = {who: [size * count / each for each in values] for who, values in seconds.items()}
        result = {**compared(rates[OURS], rates[PEER]), "chosen": chosen, "tried_seconds": tried}
        found[f"{name}, dropout {dropout:g}"] = {**result, "batch": size, "unit": "texts/s"}
        del ours, peers, both
        task.release()
    return found


def encoding(task: Task) -> dict[str, Any]:
    """By backbone."""
    count, sizes, rounds = (32, (8, 16), 1) if task.quick else (20_000, (32, 128, 512, 2048), 3)
    texts, _ = texts_of(count)
    dtypes = [torch.bfloat16, *([] if task.device == "cpu" else [torch.float16])]
    found = {}
    for name, folder in task.backbones():
        ours = backends.ours(folder, "bfloat16", task.device)
        peers = {
            f"{dtype}, {attention}".removeprefix("torch."): backends.sentence_transformers(
                folder, dtype, task.device, attention
            )
            for dtype, attention in product(dtypes, attentions())
        }
        size, tuning = tuned(ours, texts[: count // 4], sizes)
        best = {each: tuned(encode, texts[: count // 4], sizes) for each, encode in peers.items()}
        chosen = max(best, key=lambda each: best[each][1][best[each][0]])
        both = {OURS: partial(ours, texts, size), PEER: partial(peers[chosen], texts, best[chosen][0])}
        rates = {who: [count / each for each in values] for who, values in in_turn(both, rounds).items()}
        found[name] = {
            **compared(rates[OURS], rates[PEER]),
            "unit": "texts/s",
            "chosen": {"ours": size, "peer": [chosen, best[chosen][0]]},
            "tuning": {"ours": tuning, **{each: rates for each, (_, rates) in best.items()}},
        }
        del ours, peers, both
        task.release()
    return found


def memory(task: Task) -> dict[str, Any]:
    """Seconds and MiB of a step by the number of pairs."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    counts = (8, 16) if task.quick else (4096, 16_384, 65_536)
    budget = 256 if task.quick else 65_536
    texts, _ = texts_of(2 * counts[-1])
    encoder = TextEncoder(BACKBONE, recompute="chunks", max_tokens_in_memory=budget).to(task.device)
    encoder.train()
    tokens, loss = encoder.tokenizer.tokenize_ragged(texts), InfoNCELoss()
    model = SentenceTransformer(str(locate(BACKBONE)), device=task.device)
    model.train()
    cached = CachedMultipleNegativesRankingLoss(model, mini_batch_num_tokens=budget)
    unused = torch.zeros(0, dtype=torch.int64, device=task.device)
    optimizers = {OURS: throughput.adamw(encoder), PEER: throughput.adamw(model)}

    def ours(pairs: int) -> None:
        places = torch.arange(2 * pairs)
        inputs = EncoderInput.of_texts(tokens.select(places)).to(torch.device(task.device))
        vectors = encoder(inputs)
        throughput.update(loss(vectors[:pairs], vectors[pairs:]), optimizers[OURS])

    def peer(pairs: int) -> None:
        columns = [model.preprocess(part) for part in (texts[:pairs], texts[pairs : 2 * pairs])]
        moved = [
            {key: each.to(task.device) if torch.is_tensor(each) else each for key, each in column.items()}
            for column in columns
        ]
        throughput.update(cached(moved, unused), optimizers[PEER])

    seconds: dict[str, dict[int, float]] = {OURS: {}, PEER: {}}
    peaks: dict[str, dict[int, float]] = {OURS: {}, PEER: {}}
    for pairs in counts:
        for who, step in ((OURS, ours), (PEER, peer)):
            if seconds[who] and max(seconds[who].values()) > LONGEST_STEP:
                continue
            for _ in range(2):  # the first one tunes kernels
                task.release()
                if task.device != "cpu":
                    torch.cuda.reset_peak_memory_stats()
                begin = time.perf_counter()
                with torch.autocast(torch.device(task.device).type, torch.bfloat16):
                    task.done(partial(step, pairs))()
                seconds[who][pairs] = time.perf_counter() - begin
            if task.device != "cpu":
                peaks[who][pairs] = torch.cuda.max_memory_allocated() / 2**20
    shared = max(seconds[OURS].keys() & seconds[PEER].keys())
    return {
        **compared([seconds[OURS][shared]], [seconds[PEER][shared]], higher=False),
        "unit": f"seconds of a step with {shared:,} pairs",
        "tokens_in_memory": budget,
        "seconds": growth("pairs", "seconds of a step", seconds),
        "peak_mib": growth("pairs", "MiB at the peak", peaks) if peaks[OURS] else None,
    }


def tests(task: Task) -> dict[str, Any]:
    """How many tests that need a GPU passed, and what pytest said at its end."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py"]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    lines = finished.stdout.strip().splitlines()
    return {"ours": None, "peer": None, "ratio": None, "status": finished.returncode, "pytest": lines[-30:]}


def mining(task: Task) -> dict[str, Any]:
    """Seconds of an epoch after the first, with mining beside it and without, and the share it waited."""
    count, batch, epochs = (64, 16, 2) if task.quick else (20_000, 128, 3)
    texts, labels = texts_of(count + count // 10, 8 if task.quick else CLASSES)
    files = [task.folder / f"{name}.parquet" for name in ("train", "test")]
    for file, part in zip(files, (slice(0, count), slice(count, None)), strict=True):
        pq.write_table(pa.table({"text": texts[part], "label": labels[part]}), file)
    corpus = Corpus("questions", files[0], files[1], count, "banking77", batch)
    threads = os.cpu_count() or 1
    precision = "32-true" if task.device == "cpu" else "bf16-mixed"
    runs = fits.Runs(
        task.folder,
        {},
        corpus,
        1,
        epochs,
        threads,
        precision=precision,
        accelerator=task.device,
        only=("none", "free"),
    )
    found = modes.turns(runs, {name: runs.kinds[name] for name in runs.only}, [0])
    cost = modes.cost(found["free"][0], found["none"][0])
    return {
        "ours": cost["epoch_seconds"],
        "peer": modes.cost(found["none"][0], found["none"][0])["epoch_seconds"],
        "ratio": 1 / cost["ratio"],
        "unit": "seconds of an epoch with mining, and of one without",
        "stall": cost["stall"],
        "cost": cost,
    }


PARTS: Mapping[str, Callable[[Task], dict[str, Any]]] = {
    "training": training,
    "encoding": encoding,
    "memory": memory,
    "tests": tests,
    "mining": mining,
}


def device_name(device: str) -> str:
    """Of the GPU, or of the processor.

    Raises:
        BenchmarkError: there is no such device.
    """
    if device == "cpu":
        return str(processor()["model"])
    if not torch.cuda.is_available():
        raise BenchmarkError("torch sees no GPU here; --device cpu --quick rehearses without one")
    return torch.cuda.get_device_name()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: with status 1 if a part failed, after the others; or there is no such device.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.engine.gpu", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="(all)")
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins later (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="little work: does it run at all?")
    given = parser.parse_args(arguments)
    begin, out, failed = time.perf_counter(), given.out.resolve(), []
    try:
        name = device_name(given.device)
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.engine.gpu: {error}") from error
    machine = {"device": name, "processor": processor(), "environment": environment(PACKAGES)}
    content: dict[str, Any] = {**machine, "quick": given.quick}
    with tempfile.TemporaryDirectory() as folder:
        task = Task(given.device, given.quick, Path(folder))
        for part in given.only:
            started = time.perf_counter()
            if started - begin > 60 * given.minutes:
                content[part] = {"skipped": f"{given.minutes:g} minutes were over"}
                write_json(out / FILE, content)
                continue
            print(f"{part} ...", flush=True)
            try:
                content[part] = PARTS[part](task)
            except Exception as error:  # the other parts are still worth having
                traceback.print_exc()
                content[part] = {"failed": f"{type(error).__name__}: {error}"}
                failed.append(part)
            content[part]["took_seconds"] = time.perf_counter() - started
            write_json(out / FILE, content)  # after each part, so that a later failure loses nothing
            task.release()
    print(f"The numbers are in {short(out / FILE)}.")
    if failed:
        raise SystemExit(f"benchmarks.engine.gpu: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
