"""An encoder is built again from its description, or refused before it is trained."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_metric.encoders import (
    AttentionPooling,
    CLSPooling,
    Encoder,
    MaxPooling,
    Pooling,
    SetEncoder,
    TextEncoder,
    TwoTowerEncoder,
)
from lit_metric.encoders.description import build_described, check_rebuildable, describe, fingerprint_of

TEXTS = ["w5 w6 w7", "W8 w9"]


class Fewer(TextEncoder):
    """Decides its pooling and length itself."""

    def __init__(self, backbone: str, extra: int = 1) -> None:
        super().__init__(backbone, CLSPooling(), max_length=9)
        self.extra = extra


class Options(TextEncoder):
    """Hands on what it doesn't know."""

    def __init__(self, backbone: str, extra: int = 1, **options: Any) -> None:
        super().__init__(backbone, **options)
        self.extra = extra


class Renamed(TextEncoder):
    """Leaves no way to say where a saved backbone is."""

    def __init__(self, name: str) -> None:
        super().__init__(name)


class Positional(TextEncoder):
    """Its arguments have no names."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)


class Computing(TextEncoder):
    """Looks at its weights when it is built, which are not there on the meta device."""

    def __init__(self, backbone: str, **options: Any) -> None:
        super().__init__(backbone, **options)
        self.size = next(self.parameters()).sum().item()


class Silent(Pooling):
    """Pools by a number that it doesn't take as an argument."""

    def forward(self, states):  # type: ignore[no-untyped-def]
        return MaxPooling()(states)


def encoders(tiny: str) -> dict[str, Encoder]:
    towers = TextEncoder(tiny, projection=4), TextEncoder(tiny, AttentionPooling(heads=2), 4)
    return {
        "text": TextEncoder(
            tiny, AttentionPooling(), 5, hidden=7, prompt="w4 ", truncate_dim=3, normalize=False
        ),
        "set": SetEncoder(TextEncoder(tiny, lower_case=True), projection=3, normalize_texts=True),
        "towers": TwoTowerEncoder(*towers),
        "fewer": Fewer(tiny, extra=3),
        "options": Options(tiny, extra=3, projection=4, prompts={"query": "w4 "}),
        "computing": Computing(tiny),
    }


@pytest.mark.parametrize("name", ["text", "set", "towers", "fewer", "options", "computing"])
def test_a_description_and_weights_are_the_encoder(name: str, tiny: str) -> None:
    encoder = encoders(tiny)[name]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    described = json.loads(json.dumps(check_rebuildable(encoder)))
    assert not any(path.endswith(".safetensors") for path in described)
    copy = build_described(described, encoder.state_dict(), trust_remote_code=True)
    items: Any = [TEXTS, TEXTS[:1]] if name == "set" else TEXTS
    role = "query" if name == "towers" else None
    np.testing.assert_array_equal(copy.encode(items, role=role), encoder.encode(items, role=role))
    assert getattr(copy, "extra", None) == getattr(encoder, "extra", None)
    frozen = [parameter.requires_grad for parameter in encoder.parameters()]
    assert frozen == [parameter.requires_grad for parameter in copy.parameters()]


def test_what_can_t_be_built_again_is_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match="Renamed can't be saved: its __init__ has to take backbone"):
        check_rebuildable(Renamed(tiny))
    with pytest.raises(TypeError, match=r"Positional was given \*arguments"):
        check_rebuildable(Positional(tiny))
    added = TextEncoder(tiny)
    added.more = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match="differs when it is built again: the class of more was Linear, is missing"
    ):
        check_rebuildable(added)
    prompted = Fewer(tiny)
    prompted.tokenizer.prompt = "w4 "
    with pytest.raises(ValueError, match="prompt of backbone was w4 , is "):
        check_rebuildable(prompted)

    class Local(Pooling):
        pass

    with pytest.raises(ValueError, match=r"Local is defined inside a function.*top of a module"):
        check_rebuildable(TextEncoder(tiny, Local()))


def test_a_class_of_the_script_is_told_of(
    tiny: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import __main__

    monkeypatch.setattr(Silent, "__module__", "__main__")
    monkeypatch.setattr(__main__, "Silent", Silent, raising=False)
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        check_rebuildable(TextEncoder(tiny, Silent()))
    assert "Silent is defined in the script that runs" in caplog.text


def test_foreign_classes_and_paths_need_trust(tiny: str) -> None:
    encoder = TextEncoder(tiny, Silent())
    described = describe(encoder)
    with pytest.raises(ValueError, match="Silent lies outside lit_metric"):
        build_described(described, encoder.state_dict())
    with pytest.raises(ValueError, match="outside of its folder"):
        build_described(described | {"../evil.py": "print()"}, encoder.state_dict(), trust_remote_code=True)
    build_described(described, encoder.state_dict(), trust_remote_code=True)


def test_files_that_are_no_text_survive(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_metric.encoders.description import as_bytes, as_text

    for content in (b"plain\r\n", b"\x00\xff\xfe", "ä".encode(), b"base64:not", b""):
        assert as_bytes(json.loads(json.dumps(as_text(content)))) == content


def test_a_fingerprint_knows_what_vectors_depend_on_and_not_where_it_was_loaded(
    tiny: str, tmp_path: Path
) -> None:
    for name, encoder in encoders(tiny).items():
        folder = tmp_path / name
        encoder.save(folder)
        assert fingerprint_of(Encoder.load(folder, trust_remote_code=True)) == fingerprint_of(encoder), name
        described = build_described(describe(encoder), encoder.state_dict(), trust_remote_code=True)
        assert fingerprint_of(described) == fingerprint_of(encoder), name
    plain = fingerprint_of(TextEncoder(tiny))
    assert fingerprint_of(TextEncoder(tiny, dropout=0.3)) == plain
    other = shutil.copytree(tiny, tmp_path / "relu")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    text, changed = TextEncoder(tiny), TextEncoder(str(other))
    assert not np.allclose(text.encode(TEXTS), changed.encode(TEXTS))
    sets = SetEncoder(TextEncoder(tiny)), SetEncoder(TextEncoder(tiny), normalize_texts=True)
    several = [plain, fingerprint_of(changed), *map(fingerprint_of, sets)]
    assert len({*several}) == 4
