"""``lit-metric encode`` as a job: shards, resuming, several processes."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric import Encoder, TextEncoder
from lit_metric.commands.encode import encode
from lit_metric.data import DataError, read_table
from lit_metric.data.shards import Shards
from lit_metric.store import sha256
from tests import forked
from tests.end_to_end.command import run
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = questions(23, seed=9)
WORDS = [text for text, _ in ROWS]


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_csv(tmp_path / "in.csv", ROWS)


def vectors_in(folder: Path) -> np.ndarray:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return np.concatenate([np.stack(table.column("embedding").to_numpy()) for table in tables if len(table)])


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each shard."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("0*")}


def test_a_folder_of_shards(
    tmp_path: Path, texts: tuple[Encoder, str], source: str, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, model = texts
    out = tmp_path / "out"
    encode(model, source, str(out), shard_rows=5)
    names = [f"{number:05d}.parquet" for number in range(5)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "manifest.json"]
    assert [len(pq.read_table(out / name)) for name in names] == [5, 5, 5, 5, 3]
    np.testing.assert_allclose(vectors_in(out), encoder.encode(WORDS), atol=1e-5)
    files = json.loads((out / "manifest.json").read_text())["files"]
    assert files == {name: {"sha256": sha256(out / name)} for name in names}
    assert read_table(str(out)).column("text") == WORDS
    before = state(out)
    with caplog.at_level(logging.INFO):
        encode(model, source, str(out), shard_rows=5)
    assert "5 of 5 shards are done already" in caplog.text
    assert state(out) == before
    # One shard is damaged, another is gone.
    (out / names[1]).write_bytes(b"PAR1")
    (out / names[3]).unlink()
    encode(model, source, str(out), shard_rows=5)
    assert f"{out / names[1]} is damaged or missing, and is made again" in caplog.text
    after = state(out)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert [name for name in names if after[name] != before[name]] == [names[1], names[3]]


def test_the_folder_can_be_searched(tmp_path: Path, texts: tuple[Encoder, str], source: str) -> None:
    encode(texts[1], source, str(tmp_path / "out"), shard_rows=9)
    for corpus in (source, "out"):
        run(
            tmp_path,
            "search",
            "--model",
            texts[1],
            "--corpus",
            corpus,
            "--query",
            "w5 w9",
            "--output",
            "f.csv",
        )
        found = [line.split(",")[:5] for line in (tmp_path / "f.csv").read_text().splitlines()]
        (tmp_path / "f.csv").rename(tmp_path / f"{Path(corpus).name}.found")
        assert len(found) == 11
    assert (
        (tmp_path / "out.found")
        .read_text()
        .split("\n")[1]
        .startswith((tmp_path / "in.csv.found").read_text().split("\n")[1])
    )
    shutil.rmtree(tmp_path / "out")
    Shards(tmp_path / "out", {}, 2, ".parquet").start()
    with pytest.raises(DataError, match="holds only a part of its shards"):
        read_table(str(tmp_path / "out"))


@pytest.mark.parametrize("ending", ["npy", "parquet", "csv", "jsonl"])
def test_one_file_is_put_together_from_shards(
    tmp_path: Path, texts: tuple[Encoder, str], ending: str
) -> None:
    lines = ['{"text": "w5", "note": 3}', '{"text": " "}', '{"text": "w6", "note": 0.5}', '{"text": ""}']
    lines += ['{"text": "w7", "more": {"a": 1}}', '{"text": "w8", "more": {"b": "x"}}', '{"text": "w9"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for rows in (1, 2, 100):
        out = tmp_path / f"{rows}.{ending}"
        encode(texts[1], str(tmp_path / "in.jsonl"), str(out), bad_rows="skip", shard_rows=rows)
    assert not list(tmp_path.glob("*.shards"))
    expected = texts[0].encode(["w5", "w6", "w7", "w8", "w9"])
    if ending == "npy":
        vectors = [np.load(tmp_path / f"{rows}.npy") for rows in (1, 2, 100)]
        for found in vectors:
            np.testing.assert_allclose(found[[0, 2, 4, 5, 6]], expected, atol=1e-5)
            assert np.isnan(found[[1, 3]]).all()
            assert found.shape == (7, 8)
    elif ending == "parquet":
        whole = pq.read_table(tmp_path / "100.parquet")
        for rows in (1, 2):
            table = pq.read_table(tmp_path / f"{rows}.parquet")
            assert table.schema == whole.schema
            names = ["text", "note", "more", "row"]
            assert table.select(names).to_pylist() == whole.select(names).to_pylist()
            found = np.stack(table.column("embedding").to_numpy())
            np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        whole_rows = read_table(tmp_path / f"100.{ending}")
        for rows in (1, 2):
            table_rows = read_table(tmp_path / f"{rows}.{ending}")
            assert table_rows.columns == whole_rows.columns
            for name in ("text", "note", "more", "row"):
                assert table_rows.column(name) == whole_rows.column(name)
            assert len(table_rows) == 5


KILLED = """
import os, signal, sys
from lit_metric.commands.encode import encode
from lit_metric.data.shards import Shards

write = Shards.write
def killed(self, number, writer):
    if number == 2:
        def half(path):
            writer(path)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, number, half)
    write(self, number, writer)

Shards.write = killed
encode(sys.argv[1], sys.argv[2], sys.argv[3], shard_rows=5)
"""


@pytest.mark.parametrize("output", ["out", "out.npy"])
def test_a_killed_job_continues(
    tmp_path: Path, texts: tuple[Encoder, str], source: str, output: str, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, model = texts
    out = tmp_path / output
    end = forked.run([sys.executable, "-c", KILLED, model, source, str(out)])
    assert end.returncode == -signal.SIGKILL
    folder = out if output == "out" else tmp_path / "out.npy.shards"
    before = state(folder)
    assert len(before) == 2
    assert output == "out" or not out.exists()
    made: list[int] = []
    write = Shards.write
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(Shards, "write", lambda self, n, w: (made.append(n), write(self, n, w)))
        encode(model, source, str(out), shard_rows=5)
    assert made == [2, 3, 4]
    assert "2 of 5 shards are done already" in caplog.text
    if output == "out":
        after = state(folder)
        assert {name: after[name] for name in before} == before
        assert not list(out.glob(".*"))
    vectors = vectors_in(out) if output == "out" else np.load(out)
    np.testing.assert_allclose(vectors, encoder.encode(WORDS), atol=1e-5)


def test_another_job_is_refused_in_a_folder_and_starts_a_file_anew(
    small: Small, tmp_path: Path, texts: tuple[Encoder, str], source: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = TextEncoder(small / "backbone", projection=8)
    other.save(tmp_path / "other")
    out = str(tmp_path / "out")
    encode(texts[1], source, out, shard_rows=9)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"model": str(tmp_path / "other")}, "'model'"),
        ({"precision": "bfloat16", "shard_rows": 4}, "'precision', 'shard_rows'"),
        ({"input": write_csv(tmp_path / "new.csv", ROWS[1:])}, "'input'"),
    ]
    for change, named in changes:
        given = {"model": texts[1], "input": source, "output": out, "shard_rows": 9, **change}
        with pytest.raises(FileExistsError, match=f"another job, which differs in {named}; name another"):
            encode(**given)
    # A model that was moved is the same one.
    shutil.copytree(texts[1], tmp_path / "moved")
    encode(str(tmp_path / "moved"), source, out, shard_rows=9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="has no shards"):
        encode(texts[1], source, str(tmp_path / "full"))
    with pytest.raises(ValueError, match="--shard_rows 0: at least 1 is needed"):
        encode(texts[1], source, out, shard_rows=0)
    # What is left of a file of another job.
    shards = Shards(tmp_path / "a.npy.shards", {"model": "another"}, 2, ".npy")
    shards.start()
    shards.write(0, lambda path: path.write_text("old"))
    encode(texts[1], source, str(tmp_path / "a.npy"), shard_rows=9)
    assert "started anew" in caplog.text
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), texts[0].encode(WORDS), atol=1e-5)


def test_a_call_that_was_killed_at_its_start_may_be_repeated(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "out", {"model": "a"}, 2, ".npy")
    records = tmp_path / "out" / ".job"
    records.mkdir(parents=True)
    (records / ".job.json.1.tmp").write_text("{")
    (records / "00000.json").write_text('{"sha256": "of another job"}')
    assert shards.start() == [0, 1]
    assert [path.name for path in records.iterdir()] == ["job.json"]


def start(folder: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    launched = ("MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "NODE_RANK", "TORCHELASTIC_", "SLURM_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(launched)}
    return forked.popen(
        [sys.executable, "-m", "lit_metric", "encode", *arguments],
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_machines_share_the_shards(tmp_path: Path, texts: tuple[Encoder, str], source: str) -> None:
    encoder, model = texts
    given = ["--model", model, "--input", source, "--output", "out.npy", "--shard_rows", "4"]
    given += ["--accelerator", "cpu", "--num_nodes", "2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    nodes = [start(tmp_path, given, {**place, "NODE_RANK": str(node)}) for node in range(2)]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), encoder.encode(WORDS), atol=1e-5)
    assert "Wrote 23 embeddings of 8 components to out.npy" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.npy"]


@pytest.mark.slow
def test_two_devices_and_a_mistake(tmp_path: Path, texts: tuple[Encoder, str], source: str) -> None:
    given = [
        "--model",
        texts[1],
        "--output",
        "out",
        "--shard_rows",
        "4",
        "--accelerator",
        "cpu",
        "--devices",
        "2",
    ]
    job = start(tmp_path, [*given, "--input", source], {})
    said = job.communicate(timeout=600)[0]
    assert job.returncode == 0, said
    np.testing.assert_allclose(vectors_in(tmp_path / "out"), texts[0].encode(WORDS), atol=1e-5)
    write_csv(tmp_path / "bad.csv", [*ROWS, ("", "a")])
    job = start(tmp_path, [*given, "--input", "bad.csv"], {})
    said = job.communicate(timeout=600)[0]
    assert job.returncode == 2, said
    assert said.count("bad.csv: 1 bad row") == 1
    assert "Traceback" not in said


MEASURED = """
import resource, sys
from lit_metric.commands.encode import encode
encode(sys.argv[1], sys.argv[2], sys.argv[3], shard_rows=2048)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".npy", ""])
def test_memory_does_not_grow_with_rows(tmp_path: Path, texts: tuple[Encoder, str], ending: str) -> None:
    peaks = []
    for count in (4_000, 80_000):
        source = write_csv(tmp_path / f"{count}.csv", questions(count, seed=1))
        command = [sys.executable, "-c", MEASURED, texts[1], source, str(tmp_path / f"out{count}{ending}")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 25  # MB; the texts alone take 80,000 * 100 bytes as Python strings


def test_the_recipe_for_ray(
    small: Small, tmp_path: Path, texts: tuple[Encoder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "encoding.md").read_text("utf-8").split("## Ray Data")[1]
    [recipe], [call] = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S) for kind in ("python", "py")
    )
    pq.write_table(pa.table({"text": WORDS, "id": [*range(23)]}), tmp_path / "questions.parquet")
    shutil.copytree(texts[1], tmp_path / "runs" / "banking77")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(data=Rows))  # type: ignore[arg-type]
    names: dict[str, Any] = {}
    exec(recipe, names)
    exec(call, names)
    table = pq.read_table(tmp_path / "vectors")
    assert table.column("id").to_pylist() == [*range(23)]
    found = np.stack(table.column("embedding").to_numpy())
    np.testing.assert_allclose(found, texts[0].encode(WORDS), atol=1e-5)


class Rows:
    """Calls a class as ``ray.data`` does: made once by a worker, then given dicts of NumPy arrays."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    @classmethod
    def read_parquet(cls, path: str) -> Rows:
        columns = pq.read_table(path).to_pandas()
        return cls([{name: values.to_numpy() for name, values in columns.items()}])

    def map_batches(
        self, made: type, fn_constructor_args: list[Any], batch_size: int, concurrency: int
    ) -> Rows:
        assert (batch_size, concurrency) == (4096, 2)
        worker = made(*fn_constructor_args)
        halves = [
            {name: values[part] for name, values in batch.items()}
            for batch in self.batches
            for part in (slice(0, 10), slice(10, None))
        ]
        return Rows([worker(half) for half in halves])

    def write_parquet(self, path: str) -> None:
        Path(path).mkdir()
        for number, batch in enumerate(self.batches):
            columns = {name: values.tolist() for name, values in batch.items()}
            pq.write_table(pa.table(columns), f"{path}/{number}.parquet")
