"""Which neighbours belong together, against loops over what the files say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lit_metric import MetricDataModule
from lit_metric.data import Judgements, Labels, Pairs
from lit_metric.report.chosen import labels_of
from lit_metric.report.searched import together_of
from tests.small import Small, write_csv


def near(count: int, columns: int = 6) -> np.ndarray:
    """Any neighbours, and none at the end of every third row."""
    found = np.random.default_rng(0).integers(0, count, (count, columns)).astype(np.int32)
    found[::3, -2:] = -1
    return found


def test_labels_say_which_neighbours_belong_together(small: Small, tmp_path: Any) -> None:
    rows = [(f"w{row} w{row + 1}", ("a", "b", "")[row % 3]) for row in range(12)]
    train = write_csv(tmp_path / "train.csv", rows)
    data = MetricDataModule(
        train=train,
        supervision=Labels(unlabelled="negatives_if_mined"),
        validation_share=0,
        cache_dir=small / "cache",
    )
    data.read()
    ids, places = torch.arange(len(data.items)), near(len(data.items))
    found = together_of(data, ids, places)
    assert found is not None
    names, offsets, numbers = labels_of(data, ids)
    own = [[names[each] for each in numbers[offsets[item] : offsets[item + 1]]] for item in ids.tolist()]
    assert ["a"] in own
    assert [] in own
    for item in ids.tolist():
        for column, other in enumerate(places[item].tolist()):
            expected = -1 if other < 0 or not own[item] or not own[other] else int(own[item] == own[other])
            if other != item:  # nothing belongs together with itself
                assert found[item, column] == expected
    assert together_of(data, ids, None) is None


@pytest.mark.parametrize("kind", ["pairs", "cranfield"])
def test_pairs_and_judgements_say_which_neighbours_belong_together(small: Small, kind: str) -> None:
    files = [small / f"cranfield/{name}.parquet" for name in ("queries", "corpus")]
    given: Any = {"pairs": Pairs("words", "definition", split="split"), "cranfield": Judgements(*files)}[kind]
    source = small / f"{kind}/{'pairs' if kind == 'pairs' else 'qrels'}.parquet"
    data = MetricDataModule(train=source, supervision=given, cache_dir=small / "cache")
    data.read()
    texts = [data.texts_of(item)[0] for item in range(len(data.items))]
    table = pq.read_table(source).to_pydict()
    if kind == "pairs":
        known = {*zip(table["words"], table["definition"], strict=True)}
        known |= {(other, one) for one, other in known}  # pairs hold in both directions
    else:
        queries, corpus = (pq.read_table(file).to_pydict() for file in files)
        names = dict(zip(queries["id"], queries["text"], strict=True))
        names |= {
            key: f"{title} {text}"
            for key, title, text in zip(corpus["id"], corpus["title"], corpus["text"], strict=True)
        }
        known = {
            (names[query], names[document])
            for query, document in zip(table["query"], table["document"], strict=True)
        }
        assert {text for pair in known for text in pair} <= {*texts}
    shown = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[: len(texts) * 3 // 4]
    places = near(len(shown))
    found = together_of(data, shown, places)
    assert found is not None
    mine = [texts[item] for item in shown.tolist()]
    for place, text in enumerate(mine):
        asked = any((text, other) in known for other in mine)
        for column, other in enumerate(places[place].tolist()):
            expected = -1 if other < 0 or not asked else int((text, mine[other]) in known)
            assert found[place, column] == expected, (kind, text, mine[other])
    assert {*np.unique(found)} == {-1, 0, 1}
