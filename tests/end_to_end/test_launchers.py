"""``encode`` and ``predict`` on processes that torchrun or SLURM starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lit_metric import TextEncoder
from tests import forked
from tests.distributed import LAUNCHER
from tests.end_to_end.command import ROOT, options
from tests.small import Small, questions, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = questions(23, seed=9)
WORDS = [text for text, _ in ROWS]


def environment(**given: str) -> dict[str, str]:
    """That of a process that no launcher has started, and what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    place = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    return {**clean, **place, **given}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def encoder(small: Small) -> TextEncoder:
    return TextEncoder(small / "backbone")


@pytest.fixture
def encode(encoder: TextEncoder, tmp_path: Path) -> list[str]:
    """``encode`` of 23 rows in six shards, on processes of the CPU."""
    encoder.save(tmp_path / "model")
    source = write_csv(tmp_path / "in.csv", ROWS)
    given = ["--model", "model", "--input", source, "--output", "out.npy", "--shard_rows", "4"]
    return ["encode", *given, "--accelerator", "cpu"]


@pytest.fixture
def predict(small: Small, tmp_path: Path) -> list[str]:
    """``predict`` of the same rows by the same encoder, before it is trained."""
    source = write_csv(tmp_path / "in.csv", ROWS)
    given = options(
        data__train=small / "train.csv",
        data__predict=source,
        data__cache_dir=small / "cache",
        model__encoder__init_args__backbone=small / "backbone",
        trainer__accelerator="cpu",
    )
    shards = [
        "--trainer.callbacks+=lit_metric.callbacks.WriteEmbeddings",
        "--trainer.callbacks.shard_items=4",
    ]
    return ["predict", f"--config={ROOT / 'configs' / 'banking77.yaml'}", *given, *shards]


def check(folder: Path, encoder: TextEncoder, name: str) -> None:
    """The vectors are those of one process, in the order of the rows, and no shards are left."""
    [path] = folder.rglob(name)
    np.testing.assert_allclose(np.load(path), encoder.encode(WORDS), atol=1e-5)
    assert not [*folder.rglob("*.shards")]


FORKING = """
import sys
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.run import main
from tests import forked
def popen(args, **given):
    return forked.popen([each for each in args if each != "-u"], **given)
subprocess_handler.Popen = popen
main(sys.argv[1:])
"""


def torchrun(folder: Path, *arguments: str, fork: bool = True) -> str:
    """The output of a command that torchrun starts twice on one machine.

    With ``fork`` its processes need not import what this one has.
    """
    command = ["-c", FORKING] if fork else ["-m", "torch.distributed.run"]
    command += ["--nnodes=1", "--nproc-per-node=2", f"--master-port={free_port()}", "-m", "lit_metric"]
    done = forked.run(
        [sys.executable, *command, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_torchrun_encodes(fork: bool, encode: list[str], encoder: TextEncoder, tmp_path: Path) -> None:
    said = torchrun(tmp_path, *encode, "--devices=2", fork=fork)
    check(tmp_path, encoder, "out.npy")
    assert said.count("Wrote 23 embeddings of 32 components to out.npy") == 1


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_torchrun_predicts(fork: bool, predict: list[str], encoder: TextEncoder, tmp_path: Path) -> None:
    torchrun(tmp_path, *predict, "--trainer.devices=2", fork=fork)
    check(tmp_path, encoder, "predictions.npy")


def srun(folder: Path, nodes: int, *arguments: str) -> list[str]:
    """The output of both tasks of a job of SLURM, which are on one machine, or on one each."""
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "vectors",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": str(2 // nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_NODELIST": "127.0.0.1",  # a real one names machines; the first is the meeting place
        "MASTER_PORT": free_port(),
    }
    tasks = []
    for task in range(2):
        node, local = divmod(task, 2 // nodes)
        place = {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
        tasks.append(
            forked.popen(
                [sys.executable, "-m", "lit_metric", *arguments],
                cwd=folder,
                env=environment(**job, **place),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    return said


@pytest.mark.parametrize("nodes", [1, 2])
def test_tasks_of_slurm_encode(nodes: int, encode: list[str], encoder: TextEncoder, tmp_path: Path) -> None:
    said = srun(tmp_path, nodes, *encode, f"--devices={2 // nodes}", f"--num_nodes={nodes}")
    check(tmp_path, encoder, "out.npy")
    assert "Wrote 23 embeddings of 32 components to out.npy" in said[0]
    assert "Wrote" not in said[1]


@pytest.mark.parametrize("nodes", [1, 2])
def test_tasks_of_slurm_predict(nodes: int, predict: list[str], encoder: TextEncoder, tmp_path: Path) -> None:
    srun(tmp_path, nodes, *predict, f"--trainer.devices={2 // nodes}", f"--trainer.num_nodes={nodes}")
    check(tmp_path, encoder, "predictions.npy")
