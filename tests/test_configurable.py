"""Written down and built again."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import torch

from lit_metric import losses
from lit_metric.configurable import (
    Arrays,
    Configurable,
    build,
    check_importable,
    checked_spec,
    rebuilt,
    spec,
)
from lit_metric.data import Items, LabelRelations, Ragged, Relations
from lit_metric.data.relations import MultiLabelRelations, PairRelations, UnionRelations
from lit_metric.encoders.pooling import AttentionPooling, MeanPooling
from lit_metric.refresh.spec import WRITTEN


class Base(Configurable):
    def __init__(self, size: int, name: str = "x") -> None:
        self.size, self.name = size, name


class Derived(Base):
    def __init__(self, extra: object, *, parts: list[Base] | None = None) -> None:
        super().__init__(size=7)
        self.extra, self.parts = extra, parts


def test_the_outermost_arguments_are_remembered() -> None:
    assert Derived(3, parts=[Base(1)]).spec() == {
        "class_path": f"{__name__}.Derived",
        "init_args": {
            "extra": 3,
            "parts": [{"class_path": f"{__name__}.Base", "init_args": {"size": 1, "name": "x"}}],
        },
    }


def test_building_gives_the_same() -> None:
    built = build(Derived(MeanPooling(), parts=[Base(1, "y"), Base(2)]).spec(), trust_remote_code=True)
    assert isinstance(built.extra, MeanPooling)
    assert [(part.size, part.name) for part in built.parts] == [(1, "y"), (2, "x")]
    pooling = build(AttentionPooling(heads=2, empty="learned").spec())
    assert (pooling.heads, pooling.empty, pooling.score) == (2, "learned", "feedforward")


def test_classes_are_found_where_their_package_exports_them() -> None:
    described = AttentionPooling(heads=2).spec()
    assert described["class_path"] == "lit_metric.encoders.AttentionPooling"
    # as earlier versions wrote it, and of modules that are no more
    for module in ("pooling", "no_such_module"):
        path = f"lit_metric.encoders.{module}.AttentionPooling"
        assert build(described | {"class_path": path}).heads == 2
    with pytest.raises(ValueError, match="no class"):
        build({"class_path": "lit_metric.encoders.no_such_module.NoSuchPooling", "init_args": {}})


def test_what_cannot_be_written_down_is_named() -> None:
    with pytest.raises(TypeError, match=r"Derived\(extra=...\) is a object"):
        Derived(object()).spec()


def test_only_this_packages_own_described_classes_are_built() -> None:
    with pytest.raises(ValueError, match=r"tests\.test_configurable.* lies outside lit_metric"):
        build(Base(1).spec())
    # a path that starts alike, one that is no class of this kind, and one hidden inside an argument
    for path in ("lit_metric_evil.Model", "os.system", "lit_metric.encoders.hub.load"):
        with pytest.raises((ValueError, ModuleNotFoundError)):
            build({"class_path": path, "init_args": {}})
    with pytest.raises(ValueError, match="no class"):
        build({"class_path": "lit_metric.configurable.importlib", "init_args": {}})
    asking = {"backbone": "someone/model", "trust_remote_code": True}
    with pytest.raises(ValueError, match="asks to run code"):
        build({"class_path": "lit_metric.encoders.text.TextEncoder", "init_args": asking})
    inner = {"class_path": "os.path.join", "init_args": {}}
    with pytest.raises(ValueError, match="lies outside"):
        build({"class_path": "lit_metric.encoders.pooling.AttentionPooling", "init_args": {"heads": inner}})


def test_what_is_described_by_attributes_says_what_they_are_now() -> None:
    class Plain:
        def __init__(self, name: str, inner: list[Base]) -> None:
            self.name, self.inner = name, inner

    plain = Plain("first", [Base(1)])
    plain.name = "second"
    arguments = spec(plain)["init_args"]
    assert arguments == {"name": "second", "inner": [Base(1).spec()]}
    assert rebuilt(arguments)["inner"][0].size == 1
    with pytest.raises(ValueError, match="lies outside lit_metric"):
        build(arguments)


class Keeps:
    """Keeps its arguments under their names."""

    def __init__(self, maximum: float = 0.5, names: tuple[str, ...] = ()) -> None:
        self.maximum, self.names = maximum, names


class HandsOn(Keeps):
    """Takes more by way of its base class."""

    def __init__(self, extra: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.extra = extra


class Options(Base):
    """The same, remembered."""

    def __init__(self, extra: int, **options: Any) -> None:
        super().__init__(**options)
        self.extra = extra

    class Inner(Base):
        """A class inside a class."""


class Many(Base):
    """Its arguments have no names."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(sum(sizes))


class Changing(Keeps):
    """Keeps something else than it was given."""

    def __init__(self, maximum: float = 0.5) -> None:
        super().__init__(maximum / 2)


def test_options_that_are_handed_on_are_described_by_name() -> None:
    described = checked_spec(Options(3, size=4, name="z"))
    assert described["init_args"] == {"extra": 3, "size": 4, "name": "z"}
    built = build(described, trust_remote_code=True)
    assert (built.extra, built.size, built.name) == (3, 4, "z")
    assert checked_spec(HandsOn(2, maximum=0.8))["init_args"] == {"extra": 2, "maximum": 0.8, "names": []}
    assert build(checked_spec(Options.Inner(2)), trust_remote_code=True).size == 2


def test_what_is_built_again_differently_is_refused() -> None:
    class Local(Base):
        pass

    for thing, kind, message in [
        (Many(1, 2), TypeError, r"Many was given \*arguments"),
        (Changing(0.5), ValueError, "Changing differs when it is built again from its arguments: maximum"),
        (Local(1), ValueError, "Local is defined inside a function"),
        (Derived({1: 2}), TypeError, "1 is a key of a mapping"),
    ]:
        with pytest.raises(kind, match=message):
            checked_spec(thing)
    with pytest.raises(ValueError, match="there is no module 'nowhere_at_all'"):
        build({"class_path": "nowhere_at_all.Thing", "init_args": {}}, trust_remote_code=True)


@pytest.mark.parametrize("name", losses.__all__)
def test_every_loss_is_built_again_from_its_description(name: str) -> None:
    kind = getattr(losses, name)
    if not (inspect.isclass(kind) and issubclass(kind, losses.Loss)) or inspect.isabstract(kind):
        return
    inner = losses.InfoNCELoss(0.3, learnable=True)
    wanted = {"loss": inner, "losses": {"a": inner}, "encoder": "somewhere", "dimensions": [2, 1]}
    needed = inspect.signature(kind).parameters
    loss = kind(**{key: value for key, value in wanted.items() if key in needed})
    described = checked_spec(loss)
    assert build(json.loads(json.dumps(described))).spec() == described


def through_json(thing: Any, name: str) -> Any:
    """Written down with arrays, and built again."""
    arrays = Arrays()
    described = json.loads(json.dumps(spec(thing, name, arrays, WRITTEN)))
    return build(described, WRITTEN, True, arrays)


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
    asked = relations()[kind]
    ids = torch.arange(len(asked))
    asked.positives(ids, ids)  # what it remembers of that isn't written
    again = through_json(asked, "relations")
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
    again = through_json(items, "items")
    assert again.texts.tolist() == items.texts.tolist()
    assert again.roles.tolist() == [0, 1, 0]
    assert again.weights.tolist() == [1.0, 2.0, 0.5]
    assert (again.kind, again.role_names) == ("set", ["query", "document"])


def test_what_another_process_cannot_find_is_refused() -> None:
    class Local(LabelRelations):
        """Nobody can import this."""

    local = Local(torch.tensor([0]), ["a"], torch.tensor([1]))
    with pytest.raises(TypeError, match="Local can't be imported by another process"):
        check_importable(spec(local, "relations", {}, WRITTEN))
    local.__class__ = LabelRelations
    local.extra = object()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"relations.extra is a object, which can't be written as arrays"):
        spec(local, "relations", {}, WRITTEN)
    for path in ("__main__.Encoder", "lit_metric.encoders.Missing"):
        with pytest.raises(TypeError, match="can't be imported by another process"):
            check_importable(
                [{"class_path": "lit_metric.Miner", "init_args": {"index": {"class_path": path}}}]
            )


def test_only_classes_of_data_are_built() -> None:
    with pytest.raises(ValueError, match=r"subprocess\.Popen is no class that can be built"):
        build({"class_path": "subprocess.Popen", "state": {}}, WRITTEN, True, {})
