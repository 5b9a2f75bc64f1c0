"""What holds for every loss, in whatever way it scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_metric import losses
from lit_metric.losses import DensePairs, InfoNCELoss, MetricLoss, PairBlock, RelationPairs, VectorLoss
from tests.losses.cases import (
    LEARN_FROM_ONE_KIND,
    LEARN_FROM_POSITIVES,
    LOSSES,
    USE_WHOLE_BATCHES,
    WEIGHED_WITHOUT_GRADIENT,
    Labels,
    random_batch,
    random_weights,
)

every_loss = pytest.mark.parametrize("name", LOSSES)


def value_and_gradients(
    loss: VectorLoss, anchors: Tensor, candidates: Tensor, pairs: losses.Pairs
) -> tuple[dict[str, Tensor], list[Tensor]]:
    anchors, candidates = anchors.clone().requires_grad_(), candidates.clone().requires_grad_()
    loss.zero_grad()
    output = loss.on_pairs(anchors, candidates, pairs)
    output["loss"].backward()
    return output, [anchors.grad, candidates.grad, *(weight.grad.clone() for weight in loss.parameters())]


def assert_nothing_learned(loss: VectorLoss, anchors: Tensor, candidates: Tensor, pairs: DensePairs) -> None:
    output, gradients = value_and_gradients(loss, anchors, candidates, pairs)
    assert output["loss"] == 0
    for gradient in gradients:  # None would mean that the graph doesn't reach it, and another rank waits
        assert gradient is not None
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in WEIGHED_WITHOUT_GRADIENT])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(name: str, weighted: bool) -> None:
    loss = LOSSES[name]().double()
    anchors, candidates, pairs = random_batch()
    if weighted:
        pairs = DensePairs(pairs.positive, pairs.negative, random_weights(pairs))

    def of(anchors: Tensor, candidates: Tensor, *_: Tensor) -> Tensor:
        return loss.on_pairs(anchors, candidates, pairs)["loss"]

    inputs = (anchors.requires_grad_(), candidates.requires_grad_(), *loss.parameters())
    assert torch.autograd.gradcheck(of, inputs)
    assert of(*inputs) > 0


@every_loss
@pytest.mark.parametrize("block_rows", [1, 4])
def test_row_blocks_change_nothing(name: str, block_rows: int) -> None:
    anchors, candidates, pairs = random_batch(anchors=11)
    pairs = DensePairs(pairs.positive, pairs.negative, random_weights(pairs))
    whole, gradients = value_and_gradients(LOSSES[name]().double(), anchors, candidates, pairs)
    blocked, gradients_of_blocks = value_and_gradients(
        LOSSES[name](block_rows=block_rows).double(), anchors, candidates, pairs
    )
    torch.testing.assert_close(blocked, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients_of_blocks, gradients, rtol=1e-10, atol=1e-13)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation, forward or backward, returns."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.entries = max(self.entries, leaf.numel())
        return result


@every_loss
def test_nothing_larger_than_a_block_of_scores_is_ever_made(name: str) -> None:
    anchors, candidates, _ = random_batch(anchors=12, candidates=30, dimension=2)
    pairs = RelationPairs(Labels(torch.arange(42) % 3), torch.arange(12), torch.arange(12, 42))
    with Largest() as largest:  # each anchor has 10 positives: [r, P, C] would be 1,200
        value_and_gradients(LOSSES[name](block_rows=4).double(), anchors, candidates, pairs)
    assert largest.entries == 4 * 30


def test_many_candidates_make_blocks_of_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, candidates, pairs = random_batch(anchors=12, candidates=30, dimension=2)
    whole = value_and_gradients(InfoNCELoss().double(), anchors, candidates, pairs)
    for scores, rows in ((100, 3), (7, 1)):
        monkeypatch.setattr("lit_metric.losses.base.BLOCK_SCORES", scores)
        with Largest() as largest:
            found = value_and_gradients(InfoNCELoss().double(), anchors, candidates, pairs)
        assert largest.entries == max(rows * 30, 30 * 2)  # the candidates have two components
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in USE_WHOLE_BATCHES])
def test_an_ignored_candidate_has_no_influence(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    positive, negative = pairs.positive.clone(), pairs.negative.clone()
    positive[:, 4] = negative[:, 4] = False
    loss, pairs = LOSSES[name]().double(), DensePairs(positive, negative)
    before, gradients = value_and_gradients(loss, anchors, candidates, pairs)
    assert not gradients[1][4].any()
    candidates[4] = torch.tensor([1e3, 0, -1e3, 1])
    after, _ = value_and_gradients(loss, anchors, candidates, pairs)
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-10)


@every_loss
def test_order_does_not_matter(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    rows, columns = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([8, 0, 3, 1, 7, 2, 6, 5, 4])
    loss = LOSSES[name]().double()
    shuffled = DensePairs(pairs.positive[rows][:, columns], pairs.negative[rows][:, columns])
    torch.testing.assert_close(
        loss.on_pairs(anchors[rows], candidates[columns], shuffled),
        loss.on_pairs(anchors, candidates, pairs),
        rtol=1e-12,
        atol=0,
    )


@every_loss
def test_weight_one_is_no_weight_zero_is_no_pair_and_others_count(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    loss = LOSSES[name]().double()

    def weighed(weight: Tensor) -> Any:
        return loss.on_pairs(anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight))

    plain, kept = loss.on_pairs(anchors, candidates, pairs), random_weights(pairs) > 0
    fewer = loss.on_pairs(anchors, candidates, DensePairs(pairs.positive & kept, pairs.negative & kept))
    torch.testing.assert_close(weighed(torch.ones(pairs.positive.shape)), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(weighed(kept.double()), fewer, rtol=1e-12, atol=0)
    assert fewer["loss"] != plain["loss"]
    twice = weighed(1.0 + pairs.positive)["loss"]
    assert twice != plain["loss"], "the loss forgets pairs.weight, so ClassWeightedLoss does nothing to it"


@every_loss
def test_no_positives_and_no_negatives(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    nothing = torch.zeros_like(pairs.positive)
    assert_nothing_learned(LOSSES[name]().double(), anchors, candidates, DensePairs(nothing, nothing))


@pytest.mark.parametrize("name", sorted({*LOSSES} - {*LEARN_FROM_ONE_KIND, *LEARN_FROM_POSITIVES}))
def test_only_one_kind_of_pair(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    loss, nothing = LOSSES[name]().double(), torch.zeros_like(pairs.positive)
    for one_kind in (DensePairs(nothing, ~nothing), DensePairs(~nothing, nothing)):
        told = f"if a pair of {name} counts by itself, add it to LEARN_FROM_ONE_KIND; else use pairs.usable"
        assert loss.on_pairs(anchors, candidates, one_kind)["loss"] == 0, told
        assert_nothing_learned(loss, anchors, candidates, one_kind)


@every_loss
@pytest.mark.parametrize(("anchor_count", "candidate_count"), [(0, 3), (3, 0), (0, 0)])
def test_no_anchors_or_no_candidates(name: str, anchor_count: int, candidate_count: int) -> None:
    masks = torch.zeros(anchor_count, candidate_count, dtype=torch.bool)
    anchors, candidates = torch.ones(anchor_count, 2), torch.ones(candidate_count, 2)
    assert_nothing_learned(LOSSES[name](block_rows=2), anchors, candidates, DensePairs(masks, masks))


@every_loss
@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [0.3, -0.4, 1.2], [3e4, 1e4, -1e4], [1e-20, 0, 2e-20]])
def test_identical_vectors_have_finite_gradients(name: str, vector: list[float]) -> None:
    _, _, pairs = random_batch()
    anchors, candidates = torch.tensor([vector] * 6), torch.tensor([vector] * 9)
    output, gradients = value_and_gradients(LOSSES[name](), anchors, candidates, pairs)
    assert all(part.isfinite() for part in output.values())
    assert all(gradient.isfinite().all() for gradient in gradients)
    if LOSSES[name]().distance != "dot" and any(vector):  # nothing pushes any of them in any direction
        size = torch.tensor(vector).abs().max()
        assert all((gradient * size).abs().max() < 1e-5 for gradient in gradients[:2])


@every_loss
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e8])
def test_finite_at_any_scale(name: str, scale: float) -> None:
    anchors, candidates, pairs = random_batch(dtype=torch.float32)
    output, gradients = value_and_gradients(LOSSES[name](), scale * anchors, scale * candidates, pairs)
    assert all(part.isfinite() for part in output.values())
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("block_rows", [2, 100])
def test_autocast_does_not_reach_the_scores(name: str, block_rows: int) -> None:
    anchors, candidates, pairs = random_batch(dtype=torch.float32)
    loss = LOSSES[name](block_rows=block_rows)
    plain, gradients = value_and_gradients(loss, anchors, candidates, pairs)
    anchors.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss.on_pairs(anchors, candidates, pairs)
    assert cast["loss"].dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
    cast["loss"].backward()
    torch.testing.assert_close(anchors.grad, gradients[0], rtol=0, atol=0)


@every_loss
def test_half_precision_embeddings_are_compared_in_single(name: str) -> None:
    anchors, candidates, pairs = random_batch(dtype=torch.bfloat16)
    loss = LOSSES[name]()
    half, gradients = value_and_gradients(loss, anchors, candidates, pairs)
    single, _ = value_and_gradients(loss, anchors.float(), candidates.float(), pairs)
    torch.testing.assert_close(half, single, rtol=0, atol=0)
    assert gradients[0].dtype == torch.bfloat16


@every_loss
def test_double_precision_is_kept(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    assert LOSSES[name]().double().on_pairs(anchors, candidates, pairs)["loss"].dtype == torch.float64


@every_loss
def test_loss_is_the_sum_of_its_parts_and_only_it_has_a_gradient(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    output = LOSSES[name]().on_pairs(anchors.float().requires_grad_(), candidates.float(), pairs)
    reported = {"loss", "active", "anchors_used", "squared_norm", "temperature", "mined", "bias", "wrong_way"}
    parts = [value for part, value in output.items() if part not in reported]
    torch.testing.assert_close(output["loss"], torch.stack(parts).sum())
    assert [part for part, value in output.items() if value.requires_grad] == ["loss"]
    # Anchor 0 has no positive, 1 no negative, 2 neither.
    if not LOSSES[name]().requires_scores:
        assert output["anchors_used"].item() == pytest.approx(3 / 6)


def test_masks_of_another_shape_are_refused() -> None:
    anchors, candidates, pairs = random_batch()
    loss = losses.TupletLoss()
    with pytest.raises(
        ValueError, match=r"positive mask of these anchors is \[6, 9\]; it should be \[6, 8\]"
    ):
        loss.on_pairs(anchors, candidates[:8], pairs)
    with pytest.raises(ValueError, match=r"anchors \[6, 4\] and candidates \[9, 3\] must be"):
        loss.on_pairs(anchors, candidates[:, :3], pairs)


class Counting(MetricLoss):
    """The smallest loss one may write: the mean score of positives."""

    def parts(self, scores: Tensor, pairs: PairBlock) -> losses.Parts:
        return {"mean": losses.masked_mean(scores, pairs.positive, pairs.weight)}


def test_a_loss_of_ones_own_is_a_method() -> None:
    anchors, candidates, pairs = random_batch()
    expected = (anchors @ candidates.T)[pairs.positive].mean()
    torch.testing.assert_close(
        Counting("dot", block_rows=2).on_pairs(anchors, candidates, pairs)["loss"], expected
    )


class Halves(Counting):
    """Its mean in two parts."""

    def parts(self, scores: Tensor, pairs: PairBlock) -> losses.Parts:
        [part] = super().parts(scores, pairs).values()
        return {name: losses.Part(part.total / 2, part.number) for name in ("first", "second")}


@pytest.mark.parametrize("kind", [Counting, Halves])
def test_a_loss_of_one_part_computes_each_block_once_others_all_but_the_last_again(
    kind: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[float] = []
    plain = Counting.parts

    def counted(self: Counting, scores: Tensor, pairs: PairBlock) -> losses.Parts:
        rows.extend(round(score, 4) for score in scores[:1, 0].tolist())  # it may have no rows
        return plain(self, scores, pairs)

    monkeypatch.setattr(Counting, "parts", counted)
    anchors, candidates, pairs = random_batch()
    anchors.requires_grad_()
    loss = kind("dot", block_rows=2).on_pairs(anchors, candidates, pairs)["loss"]
    first, second, third = (round(anchors[row].dot(candidates[0]).item(), 4) for row in (0, 2, 4))
    assert rows == [first, second, third]
    loss.backward()
    assert rows[3:] == ([] if kind is Counting else [second, first])
    expected = (pairs.positive.double() @ candidates) / pairs.positive.sum()
    torch.testing.assert_close(anchors.grad, expected)


@pytest.mark.parametrize("name", ["bias", "weight"])
def test_a_bias_or_a_weight_may_be_learned(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    found = []
    for block_rows in (1024, 2):
        given = torch.linspace(0.5, 1.5, pairs.positive.numel(), dtype=torch.float64).view(6, 9)
        given.requires_grad_()
        loss = Counting("dot", block_rows=block_rows)
        with_it = DensePairs(pairs.positive, pairs.negative, **{name: given})
        loss.on_pairs(anchors.requires_grad_(), candidates, with_it)["loss"].backward()
        found.append(given.grad)
    scores = anchors.detach() @ candidates.T
    expected = pairs.positive / pairs.positive.sum().double() * (scores if name == "weight" else 1)
    for each in found:
        torch.testing.assert_close(each, expected)


class Crossing(VectorLoss):
    """One that needs more than similarities: the mean square of what anchors and positives add up to."""

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> losses.Parts:
        squares = (anchors[:, None] + candidates).square().sum(dim=2)
        return {"square": losses.masked_mean(squares, pairs.positive, pairs.weight)}


def test_a_loss_of_vectors_needs_no_method_of_scores() -> None:
    anchors, candidates, pairs = random_batch()
    row, column = pairs.positive.nonzero(as_tuple=True)
    expected = torch.stack(
        [(anchors[i] + candidates[j]).pow(2).sum() for i, j in zip(row, column, strict=True)]
    )
    loss = Crossing("dot", block_rows=2)
    torch.testing.assert_close(loss.on_pairs(anchors, candidates, pairs)["loss"], expected.mean())
    assert not hasattr(losses.AngularLoss, "parts")
    with pytest.raises(TypeError, match=r"abstract.* rows"):
        VectorLoss("dot")  # type: ignore[abstract]
    with pytest.raises(TypeError, match=r"abstract.* parts"):
        MetricLoss("dot")  # type: ignore[abstract]


class Untouching(MetricLoss):
    """Says that there is nothing to learn without looking at its input or its parameter."""

    def __init__(self) -> None:
        super().__init__("dot")
        self.scale = torch.nn.Parameter(torch.ones(2))

    def parts(self, scores: Tensor, pairs: PairBlock) -> losses.Parts:
        return {"nothing": losses.Part(torch.zeros(()), torch.zeros((), dtype=torch.int64))}


def test_every_loss_touches_its_inputs_and_parameters() -> None:
    anchors, candidates, pairs = random_batch()
    anchors[0, 0] = torch.inf  # which 0 * anchors.sum() would turn into NaN
    assert_nothing_learned(Untouching(), anchors, candidates, pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": "manhattan"}, "'manhattan' is none of cosine, dot, euclidean, squared_euclidean"),
        ({"distance": "dot", "normalize": True}, "use distance 'cosine'"),
        ({"distance": "dot", "block_rows": 0}, "block_rows must be at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Counting(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ContrastiveLoss", {"margin": 0.5, "distance": "cosine", "average": "pairs"}),
        ("TripletLoss", {"margin": "soft", "mining": "hard", "distance": "euclidean"}),
        ("TripletLoss", {"margin": 0.3, "average": "active", "block_rows": 7}),
        ("TupletLoss", {"distance": "cosine"}),
        ("MultiSimilarityLoss", {"alpha": 3.0, "epsilon": None}),
        ("CircleLoss", {"margin": 0.25, "scale": 256.0}),
        ("LiftedStructureLoss", {"temperature": 0.1, "distance": "squared_euclidean", "normalize": True}),
        ("PairLogisticLoss", {"weighting": "reciprocal_rank", "temperature": 0.1}),
        ("AngularLoss", {"angle": 45.0, "distance": "dot"}),
        ("NCALoss", {"temperature": 0.07, "learnable": True}),
        ("NPairLoss", {"l2": 0.01}),
        ("CoSENTLoss", {"temperature": 0.1, "distance": "dot"}),
        ("MarginMSELoss", {"compared": "positives"}),
        ("DistillationKLLoss", {"temperature": 0.5, "teacher_temperature": 2.0}),
        ("InfoNCELoss", {"temperature": 0.07, "learnable": True, "positives_in_denominator": True}),
    ],
)
def test_configured_from_text(name: str, arguments: dict[str, Any]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VectorLoss, "loss")
    config = parser.parse_object(
        {"loss": {"class_path": f"lit_metric.losses.{name}", "init_args": arguments}}
    )
    loss = parser.instantiate(config).loss
    assert type(loss) is getattr(losses, name)
    for argument, value in arguments.items():
        if argument == "temperature":
            assert float(torch.as_tensor(loss.temperature).detach()) == pytest.approx(value)
        elif argument == "learnable":
            assert [parameter for parameter, _ in loss.named_parameters()] == ["log_temperature"]
        else:
            assert getattr(loss, argument) == value
    assert not math.isnan(loss.on_pairs(*random_batch(dtype=torch.float32))["loss"].item())


@every_loss
@pytest.mark.parametrize("double", ["anchors", "candidates"])
def test_sides_of_two_precisions(name: str, double: str) -> None:
    anchors, candidates, pairs = random_batch(dtype=torch.float32)
    expected = LOSSES[name]().double().on_pairs(anchors.double(), candidates.double(), pairs)["loss"]
    sides = [
        side.double() if which == double else side
        for which, side in (("anchors", anchors), ("candidates", candidates))
    ]
    value, gradients = value_and_gradients(LOSSES[name]().double(), *sides, pairs)
    torch.testing.assert_close(value["loss"], expected, rtol=1e-6, atol=1e-9)
    assert [each.dtype for each in gradients[:2]] == [side.dtype for side in sides]


SOFTMAX = {
    "tuplet": {},
    "n-pair": {"l2": 0.0},
    "info-nce": {"distance": "dot"},
    "sup-con": {"distance": "dot"},
    "info-nce-hard": {"distance": "dot"},
    "sup-con-hard": {"distance": "dot"},
    "nca": {"distance": "dot"},
    "lifted": {"distance": "dot"},
    "multi-similarity-all": {"distance": "dot", "alpha": 1.0, "beta": 1.0},
    "distillation": {},
    "cosent": {"distance": "dot"},
    "pair-logistic": {"distance": "dot"},
}


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("block_rows", [1024, 5])
def test_gradients_from_raw_products_of_thousands(name: str, block_rows: int) -> None:
    """Vectors share a large offset: shares of a softmax that don't sum to one, in float32, would add a part
    of it to the gradient."""
    generator = torch.Generator().manual_seed(1)
    anchors, candidates = (torch.randn(16, 64, generator=generator) / 8 + 10 for _ in range(2))
    same = torch.arange(16) // 2
    pairs = DensePairs(same[:, None] == same, same[:, None] != same)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        loss = LOSSES[name](**SOFTMAX[name], block_rows=block_rows).to(dtype)
        _, (gradient, *_) = value_and_gradients(loss, anchors.to(dtype), candidates.to(dtype), pairs)
        gradients.append(gradient.double())
    right, got = gradients
    assert right.norm() > 0
    assert float((got - right).norm() / right.norm()) < 2e-3


@pytest.mark.parametrize(
    ("old", "new"),
    [("needs_classes", "requires_labels"), ("uses_targets", "requires_scores"), ("build", "setup")],
)
def test_a_loss_with_a_hook_of_an_old_name_is_refused(old: str, new: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine\.{old} has another name now: {new}"):
        type("Mine", (MetricLoss,), {old: True})
