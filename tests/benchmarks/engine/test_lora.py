"""LoRA beside full training: both sides run, and train what their settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from benchmarks.engine import lora, memory
from lit_metric import TextEncoder

pytest.importorskip("peft", reason="needs peft, of the extra 'peft'")


def test_a_random_model_is_of_the_size_that_its_name_says(tmp_path: Path) -> None:
    special = {f"{name}_token_id": 0 for name in ("pad", "cls", "bos", "sep", "eos")}
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(vocab_size=30522, **lora.LARGE, **special))
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(1e8, rel=0.1)
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1}
    folder = lora.random_model(tmp_path, {**lora.LARGE, **tiny})
    assert TextEncoder(folder, adapter=lora.ADAPTER).encode(["where is my card"]).shape == (1, 32)


def test_both_sides_take_turns_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, str]] = []

    def run(side: str, pairs: int, steps: int, **options: Any) -> dict[str, Any]:
        calls.append(("adapter" in options, options["backbone"]))
        whole = "adapter" not in options
        return {
            "seconds": 2.0 if whole else 1.0,
            "steps_peak_mb": 900.0 if whole else 600.0,
            "libraries_mb": 500.0,
        }

    monkeypatch.setattr(lora, "run", run)
    monkeypatch.setattr(lora, "random_model", lambda folder, config: "random")
    minilm, modernbert = lora.measure(tmp_path, quick=False)
    assert [adapted for adapted, _ in calls] == [True, False] * 6
    assert {backbone for _, backbone in calls[6:]} == {"random"}
    assert (minilm["name"], modernbert["name"]) == ("lora-minilm", "lora-modernbert-100m")
    assert minilm["ratio"] == modernbert["ratio"] == 2.0
    assert minilm["memory_mb"] == {"ours": 100.0, "peer": 400.0}
    assert minilm["rounds"] == {"ours": [64.0] * 3, "peer": [32.0] * 3}


def test_a_step_with_an_adapter_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "texts", lambda count: [f"question {row} of some" for row in range(count)])
    found = memory.child("ours", 3, 1, {"adapter": lora.ADAPTER})
    assert found["seconds"] > 0
