"""Tables of token vectors are trained by rows, alone and among other parameters, on one rank and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_metric import MetricLearner, StaticEncoder
from lit_metric.data.ragged import EncoderInput
from lit_metric.encoders import AttentionPooling
from lit_metric.encoders.static import TokenTable
from lit_metric.losses import InfoNCELoss
from lit_metric.modules.row_adamw import RowAdamW, dense_gradients
from tests.distributed import RankPool
from tests.end_to_end import ranks
from tests.refresh import fits
from tests.small import Small, distance, trainer, weights

OPTIONS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}


def learner(small: Small, **options: Any) -> MetricLearner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = StaticEncoder(small / "backbone", AttentionPooling(), projection=8, **options)
    return MetricLearner(encoder, InfoNCELoss(0.2), **OPTIONS)


class Layouts(Callback):
    """Notes the layout of the gradients of a table."""

    def __init__(self) -> None:
        self.found: set[torch.layout] = set()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.found.add(pl_module.encoder.backbone.table.weight.grad.layout)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_row_is_updated_as_adamw_would_at_its_own_steps(sparse: bool) -> None:
    torch.manual_seed(0)
    table = TokenTable(torch.randn(5, 3, dtype=torch.float64))
    table.sparse = sparse
    other = torch.nn.Linear(3, 2, dtype=torch.float64)
    alone = [torch.nn.Parameter(row.clone()) for row in table.weight.detach()]
    plain = torch.nn.Linear(3, 2, dtype=torch.float64)
    plain.load_state_dict(other.state_dict())
    groups = [{"params": [table.weight], "rows": True}, {"params": [*other.parameters()]}]
    optimizer = RowAdamW(groups, fused=True, **OPTIONS)
    references = [torch.optim.AdamW([row], **OPTIONS) for row in alone]
    reference = torch.optim.AdamW(plain.parameters(), **OPTIONS)
    # Row 3 is in no batch, and row 4 in one with a gradient of zero.
    for batch in ([0, 1, 1], [1], [2, 0], [1, 2, 4], [0, 1, 2]):
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0], dtype=torch.float64)[batch][:, None]
        optimizer.zero_grad()
        ((other(table(torch.tensor(batch))) * scale) ** 2).sum().backward()
        for each in (*references, reference):
            each.zero_grad()
        ((plain(torch.stack([alone[row] for row in batch])) * scale) ** 2).sum().backward()
        optimizer.step()
        reference.step()
        for row in {*batch} - {4}:
            references[row].step()
        torch.testing.assert_close(table.weight.detach(), torch.stack([*alone]).detach())
        assert table.weight.grad is not None
    assert distance(weights(other), weights(plain)) < 1e-12
    assert optimizer.state[table.weight]["step"].tolist() == [3, 4, 3, 0, 0]


def test_its_state_survives_in_any_precision() -> None:
    table = torch.nn.Parameter(torch.ones(300, 2, dtype=torch.bfloat16))
    optimizer = RowAdamW([{"params": [table], "rows": True}])
    table.grad = torch.ones_like(table)
    optimizer.step()
    state = optimizer.state[table]
    state["step"] += 1000
    again = RowAdamW([{"params": [table], "rows": True}], fused=True)
    again.load_state_dict(optimizer.state_dict())
    for name, value in again.state[table].items():
        torch.testing.assert_close(value, state[name])


def test_sparse_gradients_are_clipped_with_the_others() -> None:
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table, other = TokenTable(torch.randn(6, 3)), torch.nn.Linear(3, 2)
        table.sparse = sparse
        (other(table(torch.tensor([1, 4, 4]))) ** 2).sum().backward()
        parameters = [*table.parameters(), *other.parameters()]
        norm = torch.nn.utils.clip_grad_norm_(dense_gradients(parameters), 0.1)
        gradients = [each.grad.to_dense() for each in parameters if each.grad is not None]
        found.append((float(norm), torch.cat([each.flatten() for each in gradients])))
    assert found[1][0] == pytest.approx(found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])
    assert found[0][1].norm() == pytest.approx(0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.05},
        {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2},
    ],
)
def test_a_fit_is_that_of_dense_gradients(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    fitted = []
    for sparse in (True, False):
        if not sparse:
            monkeypatch.setattr(MetricLearner, "use_sparse_gradients", lambda self: None)
        module = learner(small).double()
        start, watch = weights(module), Layouts()
        fit = trainer(tmp_path, watch, **options)
        fit.fit(module, small.data())
        assert watch.found == {torch.sparse_coo if sparse else torch.strided}
        names = [group["name"] for group in fit.optimizers[0].param_groups]
        assert names == ["encoder.rows", "encoder", "encoder.no_decay"]
        fitted.append(weights(module))
    assert distance(*fitted) < 1e-9
    moved = (fitted[0]["encoder.backbone.model.weight"] != start["encoder.backbone.model.weight"]).any(1)
    # Special tokens and words of no training text stay where they were.
    used = {int(word[1:]) for text in texts(small) for word in text.split()}
    assert {*moved.nonzero().squeeze(1).tolist()} <= used
    assert int(moved.sum()) > 40


def test_after_a_fit_any_optimizer_may_follow(small: Small, tmp_path: Path) -> None:
    module = learner(small)
    trainer(tmp_path, max_steps=1).fit(module, small.data())
    before, optimizer = weights(module), torch.optim.AdamW(module.parameters(), lr=0.1)
    inputs = EncoderInput.of_texts(module.encoder.tokenizer.tokenize_ragged(["w5 w6"]))
    module.encoder(inputs).sum().backward()
    optimizer.step()
    assert distance(weights(module), before) > 1e-2


def texts(small: Small) -> list[str]:
    return [line.partition(",")[0] for line in Path(small / "train.csv").read_text().splitlines()[1:]]


def test_another_optimizer_gets_dense_gradients(small: Small, tmp_path: Path) -> None:
    class Plain(MetricLearner):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Plain(StaticEncoder(small / "backbone"), InfoNCELoss(0.2))
    before = weights(module)
    trainer(tmp_path, max_steps=2).fit(module, small.data())
    assert not module.encoder.backbone.table.sparse
    assert distance(weights(module), before) > 1e-3


def test_a_resumed_fit_ends_like_the_whole_one(small: Small, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", auto_insert_metric_name=False, every_n_train_steps=4)
    whole = learner(small, dropout=0.2)
    trainer(tmp_path, saving).fit(whole, small.data())
    rest = learner(small, dropout=0.2)
    trainer(tmp_path).fit(rest, small.data(), ckpt_path=tmp_path / "8.ckpt")
    assert distance(weights(whole), weights(rest)) == 0
    loaded = MetricLearner.load_from_checkpoint(tmp_path / "8.ckpt")
    assert isinstance(loaded.encoder, StaticEncoder)


def _fit_ranks(root: Path, folder: Path, count: int) -> dict[str, Any]:
    ranks.quiet()
    small, watch = Small(root), Layouts()
    module = learner(small).double()
    fit = trainer(folder, watch, **ranks.places(count), max_epochs=2, gradient_clip_val=0.5)
    fit.fit(module, small.data())
    return {"weights": weights(module), "sparse": watch.found == {torch.sparse_coo}}


def test_two_ranks_train_as_one(small: Small, tmp_path: Path, pool: RankPool) -> None:
    alone = _fit_ranks(small.root, tmp_path / "alone", 1)
    for rank in pool.run(_fit_ranks, small.root, tmp_path / "ranks", 2):
        assert rank["sparse"]
        assert distance(rank["weights"], alone["weights"]) < 1e-9


def test_a_worker_mines_from_a_static_model(small: Small, tmp_path: Path) -> None:
    done = fits.fit(small, tmp_path, learner=learner(small))
    assert done.tables.versions == [fits.version_at(batch) for batch in range(15)]
    assert any(len(ids) > 12 for ids in done.watch.candidates)
