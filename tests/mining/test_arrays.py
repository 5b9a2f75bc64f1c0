"""Relations and items survive being written as arrays, and answer as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_metric.data import Items, LabelRelations, Ragged, Relations
from lit_metric.data.relations import MultiLabelRelations, PairRelations, UnionRelations
from lit_metric.mining.arrays import Arrays, build, check_importable, describe


def relations() -> dict[str, Relations]:
    labels = LabelRelations(torch.tensor([0, 1, 0, -1, 1]), ["a", "b"], torch.tensor([1, 2, 3, 4, 1]))
    several = MultiLabelRelations(
        Ragged.from_lists([[0, 1], [1], [2], [], [0, 1, 2]]), ["a", "b", "c"], torch.arange(5), overlap=0.5
    )
    pairs = PairRelations(
        torch.tensor([0, 0, 1]),
        torch.tensor([2, 3, 4]),
        torch.tensor([2.0, 0.0, 1.0]),
        torch.tensor([7, 8, 9, 9, 5]),
        ignored=(torch.tensor([1]), torch.tensor([2])),
        symmetric=True,
    )
    return {"labels": labels, "several": several, "pairs": pairs, "union": UnionRelations([labels, pairs])}


@pytest.mark.parametrize("kind", list(relations()))
def test_relations_answer_as_before(kind: str) -> None:
    asked, arrays = relations()[kind], Arrays()
    ids = torch.arange(len(asked))
    asked.positives(ids, ids)  # what it remembers of that isn't written
    again = build(_through_json(describe(asked, "relations", arrays)), arrays)
    assert type(again) is type(asked)
    assert again.positive(ids, ids).tolist() == asked.positive(ids, ids).tolist()
    assert again.excluded(ids, ids).tolist() == asked.excluded(ids, ids).tolist()
    assert again.positives(ids, ids).tolist() == asked.positives(ids, ids).tolist()
    torch.testing.assert_close(again.targets(ids, ids), asked.targets(ids, ids), equal_nan=True)


def test_items_with_roles_and_weights() -> None:
    rows = [["red", "round"], ["red"], []]
    items, _ = Items.encode(
        rows, "set", roles=["query", "document", "query"], weights=[[1.0, 2.0], [0.5], []]
    )
    arrays = Arrays()
    again = build(_through_json(describe(items, "items", arrays)), arrays)
    assert again.texts.tolist() == items.texts.tolist()
    assert again.roles.tolist() == [0, 1, 0]
    assert again.weights.tolist() == [1.0, 2.0, 0.5]
    assert (again.kind, again.role_names) == ("set", ["query", "document"])


def _through_json(described: Any) -> Any:
    import json

    return json.loads(json.dumps(described))


def test_what_another_process_cannot_find_is_refused() -> None:
    class Local(LabelRelations):
        """Nobody can import this."""

    local = Local(torch.tensor([0]), ["a"], torch.tensor([1]))
    with pytest.raises(TypeError, match="Local can't be imported by another process"):
        describe(local, "relations", {})
    local.__class__ = LabelRelations
    local.extra = object()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"relations.extra is a object, which can't be written as arrays"):
        describe(local, "relations", {})
    for path in ("__main__.Encoder", "lit_metric.encoders.Missing"):
        with pytest.raises(TypeError, match="can't be imported by another process"):
            check_importable(
                [{"class_path": "lit_metric.Miner", "init_args": {"index": {"class_path": path}}}]
            )


def test_only_classes_of_data_are_built() -> None:
    with pytest.raises(ValueError, match=r"subprocess\.Popen is none of the classes"):
        build({"class_path": "subprocess.Popen", "state": {}}, {})
