"""The baselines of the demo's tables, and the experiment with tags that training never met."""

import hashlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from benchmarks import unseen_tags
from benchmarks.baselines import BASELINES, Baseline, accuracy, baselines, fit, unseen_baselines
from benchmarks.tagged_items import TaggedItems, read_splits, write_splits
from benchmarks.unseen_tags import hold_out_tags, unseen_splits


def head(items: TaggedItems, n: int) -> TaggedItems:
    return TaggedItems(items.names[:n], items.tags[:n], items.sections[:n])


@pytest.fixture(scope="module")
def splits() -> dict[str, TaggedItems]:
    return read_splits()


class Constant:
    """A classifier that gives every item the same label."""

    def __init__(self, label):
        self.label = label

    def fit(self, features, labels):
        self.classes_ = np.unique(labels)
        return self

    def predict(self, features):
        return np.array([self.label] * features.shape[0])


def test_accuracy_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 5, (2, 300)).astype(str)
    truth[truth == "4"] = "3"
    with pytest.warns(UserWarning, match="not in y_true"):
        macro = balanced_accuracy_score(truth, predicted)
    scores = accuracy(truth, predicted)
    assert scores["macro"] == pytest.approx(macro)
    assert scores["micro"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["macro"] != pytest.approx(scores["micro"], abs=1e-3)


@pytest.mark.parametrize("weights", ["uniform", "similarity"])
def test_tf_idf_neighbours_are_those_of_a_naive_loop(splits, weights):
    train, test = head(splits["train"], 400), head(splits["test"], 60)
    baseline = BASELINES["one-hot TF-IDF 10-NN"]
    setting = baseline.settings[weights == "similarity"]
    fitted = fit(baseline._replace(settings=(setting,)), train, test)

    frequency = Counter(tag for tags in train.tags for tag in tags)
    idf = {tag: np.log((1 + 400) / (1 + count)) + 1 for tag, count in frequency.items()}

    def cosine(some, others):
        def norm(tags):
            return np.sqrt(sum(idf[tag] ** 2 for tag in tags if tag in idf))

        return sum(idf[tag] ** 2 for tag in set(some) & set(others) if tag in idf) / (
            norm(some) * norm(others)
        )

    compared = 0
    for tags, predicted in zip(test.tags, fitted.predict(test.tags), strict=True):
        similarity = np.array([cosine(tags, others) for others in train.tags])
        order = np.argsort(-similarity)
        if np.isclose(similarity[order[9]], similarity[order[10]]):
            continue  # which of the equally near ones are among the ten is arbitrary
        votes = Counter()
        for row in order[:10]:
            votes[train.sections[row]] += 1.0 if weights == "uniform" else similarity[row]
        best = max(votes.values())
        assert predicted in {label for label, vote in votes.items() if np.isclose(vote, best)}
        compared += 1
    assert compared > 30


def test_validation_chooses_and_by_its_own_measure():
    train = TaggedItems(["1", "2", "3"], [["x"], ["x"], ["y"]], ["a", "b", "c"])
    validation = TaggedItems(list("1234"), [["x"]] * 4, ["a", "a", "a", "b"])
    vectorizer = BASELINES["logistic regression"].vectorizer
    by_micro = Baseline(vectorizer, Constant, ("c", "b", "a"), ("micro",))
    assert fit(by_micro, train, validation).setting == "a"
    by_macro = Baseline(vectorizer, Constant, ("c", "b", "a"), ("macro",))
    assert fit(by_macro, train, validation).setting == "b"


def test_an_item_of_unknown_tags_gets_the_most_frequent_label():
    train = TaggedItems(["1", "2", "3"], [["x"], ["y"], ["y"]], ["rare", "often", "often"])
    for name in ("logistic regression", "logistic regression, class-balanced"):
        fitted = fit(BASELINES[name], train, train)
        assert fitted.predict([["new"], ["x"], ["new", "x"], []]).tolist() == [
            "often",
            "rare",
            "rare",
            "often",
        ]


def test_a_tag_is_one_column_and_not_its_characters():
    train = TaggedItems(["1", "2"], [["ab", "c::d"], ["ab"]], ["s", "t"])
    columns = {name: fit(BASELINES[name], train, train).vectorizer for name in list(BASELINES)[2:]}
    for vectorizer in columns.values():
        assert vectorizer.get_feature_names_out().tolist() == ["ab", "c::d"]


def test_the_table_of_the_demo(splits, monkeypatch):
    # The best by validation is among both; the others take as long again.
    for name in list(BASELINES)[2:]:
        monkeypatch.setitem(BASELINES, name, BASELINES[name]._replace(settings=(0.3, 1.0)))
    scores = baselines(splits["train"], splits["validation"], splits["test"])
    expected = {
        "one-hot TF-IDF 10-NN": (0.62, 0.63),
        "logistic regression": (0.63, 0.68),
        "logistic regression, class-balanced": (0.72, 0.66),
    }
    for name, (macro, micro) in expected.items():
        assert scores[name]["macro"] == pytest.approx(macro, abs=0.02), name
        assert scores[name]["micro"] == pytest.approx(micro, abs=0.02), name


def test_held_out_tags_are_the_first_by_hash():
    items = TaggedItems(["1", "2"], [list("abcde"), list("fghij")], ["s", "s"])
    turned = TaggedItems(["2", "1"], [list("jihgf"), list("edcba")], ["s", "s"])
    by_hash = sorted("abcdefghij", key=lambda tag: hashlib.sha256(tag.encode()).hexdigest())
    assert hold_out_tags([items], 0.2) == set(by_hash[:2])
    assert hold_out_tags([turned], 0.5) == set(by_hash[:5])
    assert hold_out_tags([items], 0.0) == set()
    with pytest.raises(ValueError, match=r"share is 20; .* between 0 and 1"):
        hold_out_tags([items], 20)


def test_the_parts_hide_each_tag_once():
    tags = [f"tag {number}" for number in range(23)]
    items = [TaggedItems(["1"], [tags], ["s"])]
    by_hash = sorted(tags, key=lambda tag: hashlib.sha256(tag.encode()).hexdigest())
    parts = [hold_out_tags(items, 0.2, part) for part in range(5)]
    assert sum(map(len, parts)) == 23
    assert set().union(*parts) == set(tags)
    assert [len(part) for part in parts] == [5, 4, 5, 4, 5]  # 4.6, 9.2, 13.8, 18.4 rounded
    assert parts[1] == set(by_hash[5:9])
    with pytest.raises(ValueError, match=r"part is 5; with a share of 0\.2 it is one of 0 to 4"):
        hold_out_tags(items, 0.2, 5)


def test_training_and_validation_never_meet_an_unseen_tag(splits):
    variants, unseen = unseen_splits(splits)
    assert len(unseen) == round(0.2 * 597) == 119
    original = dict(zip(splits["test"].names, splits["test"].tags, strict=True))
    only, every = variants["only-unseen"], variants["all-tags"]
    for split in ("train", "validation"):
        assert only[split] == every[split]
        for name, tags in zip(only[split].names, only[split].tags, strict=True):
            assert tags, name
            assert unseen.isdisjoint(tags), name
    assert only["test"].names == every["test"].names
    assert set(only["test"].names) == {name for name, tags in original.items() if unseen & set(tags)}
    for name, some, all_tags in zip(only["test"].names, only["test"].tags, every["test"].tags, strict=True):
        assert all_tags == original[name]
        assert some == [tag for tag in all_tags if tag in unseen]


def test_an_item_without_seen_tags_leaves_the_training(splits):
    items = TaggedItems(["1", "2"], [list("abcde"), list("fghij")], ["s", "t"])
    variants, unseen = unseen_splits({"train": items, "validation": items, "test": items}, 1.0)
    assert unseen == set("abcdefghij")
    assert variants["all-tags"]["train"] == TaggedItems([], [], [])
    assert variants["only-unseen"]["test"] == items


def test_one_hot_models_have_nothing_to_hold_on_to(splits, monkeypatch):
    for name, baseline in BASELINES.items():
        monkeypatch.setitem(BASELINES, name, baseline._replace(settings=baseline.settings[:1]))
    result = unseen_baselines(splits)
    test = unseen_splits(splits)[0]["only-unseen"]["test"]
    assert (result["n"], result["unseen_tags"]) == (len(test.names), 119)
    most_frequent = Counter(splits["train"].sections).most_common(1)[0][0]
    chance = test.sections.count(most_frequent) / len(test.sections)
    for name, scores in result["only-unseen"].items():
        if name == "word TF-IDF 10-NN":
            assert scores["micro"] > chance + 0.1
        else:
            assert scores == {
                "macro": pytest.approx(1 / len(set(test.sections))),
                "micro": pytest.approx(chance),
            }
        assert result["all-tags"][name]["micro"] > scores["micro"] + 0.3


def test_the_command_writes_both_variants(splits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unseen_tags", "--output", str(tmp_path / "new")])
    unseen_tags.main()
    variants, _ = unseen_splits(splits)
    assert [Path(line).stem for line in capsys.readouterr().out.split()] == list(variants)
    for variant, expected in variants.items():
        assert read_splits(tmp_path / "new" / f"{variant}.parquet") == expected


def test_a_file_of_another_shape_is_refused_with_the_reason(tmp_path):
    pq.write_table(pa.table({"name": ["a"], "tags": [["x"]]}), tmp_path / "columns.parquet")
    with pytest.raises(ValueError, match="no column section, split"):
        read_splits(tmp_path / "columns.parquet")
    write_splits(tmp_path / "split.parquet", {"dev": TaggedItems(["a"], [["x"]], ["s"])})
    with pytest.raises(ValueError, match="a: split 'dev' is none of train, validation, test"):
        read_splits(tmp_path / "split.parquet")
