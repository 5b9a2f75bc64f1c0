"""Items are encoded once, and measured as an evaluation would; also where other ranks have gone on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_metric.data import DataError
from lit_metric.encoders import SetEncoder
from lit_metric.evaluation import Evaluation, evaluate
from lit_metric.index import Embeddings
from lit_metric.report.vectors import encode_once, measure_encoded
from tests.distributed import RankPool
from tests.small import Small


def measured(root: str) -> dict[str, float]:
    """What the first of several ranks measures by itself; the others do nothing."""
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return {}
    small = Small(Path(root))
    encoder, data = small.learner().encoder, small.data()
    data.read()
    groups = [data.splits[name] for name in data.roles("test").values()]
    found = encode_once(encoder, data, groups)
    return measure_encoded(found, data, "test", {"space": True}).values


def test_one_rank_measures_while_the_others_do_something_else(small: Small, pool: RankPool) -> None:
    encoder, data = small.learner().encoder, small.data()
    data.prepare(encoder.tokenizer)
    expected = evaluate(encoder, data, "test", Evaluation(data, "test", space=True))
    assert measured(str(small.root)) == pytest.approx(expected, abs=1e-5)
    first, second = pool.run(measured, str(small.root))
    assert first == pytest.approx(expected, abs=1e-5)
    assert second == {}


def test_each_item_is_encoded_once(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, data = small.learner().encoder, small.data()
    data.read()
    seen: list[int] = []
    loader = data.encoding_loader

    def counted(ids: torch.Tensor) -> object:
        seen.extend(ids.tolist())
        return loader(ids)

    monkeypatch.setattr(data, "encoding_loader", counted)
    test, train = data.splits["test"], data.splits["train"]
    found = encode_once(encoder, data, [test, torch.cat([test[:3], train[:5]])])
    assert sorted(seen) == sorted([*test.tolist(), *train[:5].tolist()])
    # What is known already isn't encoded again.
    seen.clear()
    known = Embeddings(test.flip(0), torch.arange(len(test)).float()[:, None].expand(-1, encoder.dimension))
    more = encode_once(encoder, data, [test, train[:5]], known=known)
    assert sorted(seen) == sorted(train[:5].tolist())
    assert more.of(test)[:, 0].tolist() == [*range(len(test))][::-1]
    texts = [data.texts_of(each)[0] for each in train[:5].tolist()]
    expected = torch.from_numpy(encoder.encode(texts))
    vectors = torch.nn.functional.normalize(found.of(train[:5]), dim=1)
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="items of kind 'text', but this model encodes 'set'"):
        encode_once(SetEncoder(encoder), data, [test])
