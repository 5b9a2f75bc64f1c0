"""What holds for every loss with learned proxies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_metric.losses import (
    CircleLoss,
    DensePairs,
    LabelPairs,
    Loss,
    LossContext,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
)
from tests.losses.cases import CLASS_LOSSES

every_loss = pytest.mark.parametrize("name", CLASS_LOSSES)

COUNTS = torch.tensor([4, 0, 7, 1, 2])
CLASSES = torch.tensor([0, 2, 2, -1, 3, 0, 1, 2])
"""Of the anchors: one has none, one has a class that doesn't occur in training, none has the last class."""


def of_classes(classes: Tensor, candidates: int = 3) -> LabelPairs:
    """Pairs of anchors of these classes and candidates without one."""
    return LabelPairs(classes, torch.full((candidates,), -1))


def built(name: str, dimension: int = 4, **options: int) -> Loss:
    torch.manual_seed(0)
    loss = CLASS_LOSSES[name](**options)
    loss.setup(LossContext(dimension, COUNTS))
    return loss


def batch(dtype: torch.dtype = torch.float64, dimension: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(len(CLASSES), dimension, generator=generator, dtype=dtype)
    return anchors, torch.randn(3, dimension, generator=generator, dtype=dtype)


def value_and_gradients(
    loss: Loss, anchors: Tensor, candidates: Tensor, classes: Tensor
) -> tuple[dict[str, Tensor], list[Tensor]]:
    anchors, candidates = anchors.clone().requires_grad_(), candidates.clone().requires_grad_()
    loss.zero_grad()
    output = loss.on_pairs(anchors, candidates, of_classes(classes, len(candidates)))
    output["loss"].backward()
    return output, [anchors.grad, candidates.grad, *(weight.grad.clone() for weight in loss.parameters())]


@every_loss
def test_gradients(name: str) -> None:
    loss = built(name).double()
    anchors, candidates = batch()

    def of(anchors: Tensor, candidates: Tensor, *_: Tensor) -> Tensor:
        return loss.on_pairs(anchors, candidates, of_classes(CLASSES))["loss"]

    inputs = (anchors.requires_grad_(), candidates.requires_grad_(), *loss.parameters())
    assert [parameter for parameter, _ in loss.named_parameters()] == ["proxies"]
    assert torch.autograd.gradcheck(of, inputs)
    assert of(*inputs) != 0


@every_loss
@pytest.mark.parametrize("block_rows", [1, 3])
def test_row_blocks_change_nothing(name: str, block_rows: int) -> None:
    whole = value_and_gradients(built(name).double(), *batch(), CLASSES)
    blocked = value_and_gradients(built(name, block_rows=block_rows).double(), *batch(), CLASSES)
    torch.testing.assert_close(blocked, whole, rtol=1e-10, atol=1e-13)


@every_loss
def test_what_is_not_looked_at_has_a_gradient_of_0(name: str) -> None:
    output, gradients = value_and_gradients(built(name).double(), *batch(), CLASSES)
    of_anchors, of_candidates, of_proxies = gradients
    assert of_anchors.any(dim=1).tolist() == [True, True, True, False, True, True, False, True]
    assert not of_candidates.any()
    # Also the proxies of the class that no anchor has are pushed away.
    assert of_proxies.any(dim=1).all()
    only = torch.isin(torch.arange(8), torch.tensor([3, 6]), invert=True)
    fewer, _ = value_and_gradients(built(name).double(), batch()[0][only], batch()[1], CLASSES[only])
    torch.testing.assert_close(fewer["loss"], output["loss"])
    if "anchors_used" in output:
        assert output["anchors_used"].item() == pytest.approx(6 / 8)


@every_loss
@pytest.mark.parametrize("classes", [[], [-1, -1, -1], [1, -1]])
def test_nothing_to_learn_from(name: str, classes: list[int]) -> None:
    anchors = torch.ones(len(classes), 4)
    output, gradients = value_and_gradients(
        built(name), anchors, torch.ones(0, 4), torch.tensor(classes, dtype=torch.int64)
    )
    assert output["loss"] == 0
    for gradient in gradients:
        assert torch.equal(gradient, torch.zeros_like(gradient))


@every_loss
@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 2, 3]])
@pytest.mark.parametrize("vector", [[0.0, 0.0], [0.3, -0.4], [3e4, 1e4], [1e-20, 2e-20]])
def test_identical_vectors_have_finite_gradients(name: str, vector: list[float], classes: list[int]) -> None:
    loss = built(name, dimension=2)
    with torch.no_grad():
        loss.proxies.copy_(torch.tensor(vector))
    output, gradients = value_and_gradients(
        loss, torch.tensor([vector] * 3), torch.ones(2, 2), torch.tensor(classes)
    )
    assert all(part.isfinite() for part in output.values())
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_loss
def test_autocast_does_not_reach_the_scores_and_half_precision_neither(name: str) -> None:
    loss = built(name)
    anchors, candidates = batch(torch.float32)
    plain, gradients = value_and_gradients(loss, anchors, candidates, CLASSES)
    anchors.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss.on_pairs(anchors, candidates, of_classes(CLASSES))
    cast["loss"].backward()
    torch.testing.assert_close((cast, anchors.grad), (plain, gradients[0]), rtol=0, atol=0)
    half, _ = value_and_gradients(loss, *batch(torch.bfloat16), CLASSES)
    single, _ = value_and_gradients(loss, *(side.float() for side in batch(torch.bfloat16)), CLASSES)
    torch.testing.assert_close(half, single, rtol=0, atol=0)


@every_loss
def test_loss_is_the_sum_of_its_parts_and_only_it_has_a_gradient(name: str) -> None:
    output, _ = value_and_gradients(built(name).double(), *batch(), CLASSES)
    parts = [value for part, value in output.items() if part not in ("loss", "anchors_used", "proxies_used")]
    torch.testing.assert_close(output["loss"], torch.stack(parts).sum())
    assert [part for part, value in output.items() if value.requires_grad] == ["loss"]


@every_loss
def test_shorter_embeddings_meet_the_first_components_of_proxies(name: str) -> None:
    anchors, candidates = batch()
    long, short = built(name).double(), built(name, dimension=2).double()
    with torch.no_grad():
        short.proxies.copy_(long.proxies[:, :2])
    cut = anchors[:, :2], candidates[:, :2], of_classes(CLASSES)
    torch.testing.assert_close(long.on_pairs(*cut)["loss"], short.on_pairs(*cut)["loss"])


def test_proxies_are_those_of_the_classes_that_occur() -> None:
    loss = SoftTripleLoss(centres=2)
    assert not list(loss.parameters())
    loss.setup(LossContext(3, COUNTS))
    assert loss.proxies.shape == (4 * 2, 3)
    assert list(loss.state_dict()) == ["proxies"]
    # Class 2 has the second place: only its two centres are of its kind.
    _, centres, pairs = loss.sides(torch.ones(1, 3), loss.proxies, loss.numbers[torch.tensor([2])])
    assert torch.equal(centres[pairs.rows(0, 1).positive[0]], loss.proxies[2:4])


def test_setting_up_again_keeps_what_was_learned() -> None:
    loss = built("proxy-nca")
    before = loss.proxies
    loss.setup(LossContext(4, COUNTS + (COUNTS > 0)))
    assert loss.proxies is before
    with pytest.raises(
        ValueError, match=r"the proxies are \[4, 4\], but this data and encoder need \[5, 4\]"
    ):
        loss.setup(LossContext(4, COUNTS + 1))


@pytest.mark.parametrize("counts", [[], [0, 0], [0, 9]])
def test_fewer_than_two_classes_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="proxies need at least 2 classes in training"):
        ProxyNCALoss().setup(LossContext(4, torch.tensor(counts, dtype=torch.int64)))


def test_classes_and_proxies_are_asked_for() -> None:
    anchors, candidates = batch(torch.float32)
    loss, nothing = ProxyAnchorLoss(), torch.zeros(8, 3, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"there are no proxies: call setup\(LossContext\(dimension, class_counts\)\) first"
    ):
        loss.on_pairs(anchors, candidates, of_classes(CLASSES))
    loss.setup(LossContext(4, COUNTS))
    with pytest.raises(ValueError, match=r"ProxyAnchorLoss needs the classes \[8\] of anchors, got none"):
        loss.on_pairs(anchors, candidates, DensePairs(nothing, nothing))
    with pytest.raises(ValueError, match=r"needs the classes \[8\] of anchors, got \[7\]"):
        loss.on_pairs(anchors, candidates, of_classes(CLASSES[:7]))


def test_saved_proxies_find_their_place_wherever_the_loss_stands() -> None:
    inner, other = built("soft-triple"), built("proxy-nca", dimension=3)
    saved = nn.ModuleDict({"deep": nn.ModuleList([CircleLoss(), inner]), "flat": other}).state_dict(
        prefix="loss."
    )
    fresh = nn.ModuleDict(
        {"deep": nn.ModuleList([CircleLoss(), SoftTripleLoss(centres=3)]), "flat": ProxyNCALoss()}
    )
    fresh.load_state_dict({name.removeprefix("loss."): value for name, value in saved.items()})
    assert torch.equal(fresh["deep"][1].proxies, inner.proxies)
    assert torch.equal(fresh["flat"].proxies, other.proxies)
    alone = SoftTripleLoss(centres=3)
    alone.make_room(inner.state_dict(), "")
    assert alone.proxies.shape == inner.proxies.shape


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_another_type_than_the_proxies(name: str, dtype: torch.dtype) -> None:
    anchors, candidates = batch(dtype)
    output, gradients = value_and_gradients(built(name), anchors, candidates, CLASSES)
    expected, right = value_and_gradients(
        built(name).double(), anchors.double(), candidates.double(), CLASSES
    )
    torch.testing.assert_close(output["loss"].double(), expected["loss"], rtol=1e-5, atol=1e-6)
    assert [each.dtype for each in gradients] == [dtype, dtype, torch.float32]
    torch.testing.assert_close(gradients[2].double(), right[2], rtol=1e-4, atol=1e-6)
