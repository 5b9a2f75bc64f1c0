"""Adapters of peft inside a backbone, such as LoRA: a few trained weights beside a base that stays as it is.

peft changes the modules of the model in place, so the model stays what transformers made of it, and runs
packed as before. An adapter is saved beside a reference to its base, or merged into it. The reference names
where the base came from and the sha256 of its weights.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_metric.encoders.adapter_source import BASE, WEIGHTS, Base, peft_module
from lit_metric.encoders.pretrained import Missing, fingerprint, shortened

NAME = "default"
"""The name of the one adapter of a model, as peft gives it."""

NOISE = 0.02
"""Standard deviation of what is added to an adapter's weights while packing is probed."""


class Adapter:
    """The adapter in a model, which is changed in place.

    Args:
        model: the base; its weights are frozen by :meth:`freeze_base`.
        config: of peft.
        base: reference to the model; its sha256 is made if it has none.
        missing: weights of the model that its source doesn't hold.
        weights: of the adapter, by peft's names; None leaves peft's initial ones.
        state: of the whole model with its adapter, or of the adapter alone, by the model's names.

    Raises:
        ValueError: if peft can't put it in, it changes weights of the base, or the weights don't fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: Any,
        base: Base,
        missing: Missing,
        weights: Mapping[str, Tensor] | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        peft = peft_module()
        self.kind = str(getattr(config.peft_type, "value", config.peft_type))
        meta = model.device.type == "meta"
        if base.sha256 is None and not meta:
            base = dataclasses.replace(base, sha256=fingerprint(model, missing.names))
        self._base = base
        tensors = model.state_dict(keep_vars=True)
        before = {name: (value.data_ptr(), value._version) for name, value in tensors.items()}
        try:
            self._wrapped: Any = peft.get_peft_model(model, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            remedy = ""
            if "target_modules" in str(error):
                remedy = " (`target_modules: all-linear` takes every linear layer)"
            raise ValueError(f"adapter: {self.kind} doesn't fit this model: {error}{remedy}") from error
        moved = [
            name
            for name, value in tensors.items()
            if not meta and (value.data_ptr(), value._version) != before[name]
        ]
        if moved:
            raise ValueError(
                f"adapter: this initialisation of {self.kind} changes weights of the base "
                f"({shortened(moved)}), so that the adapter would not fit its base again; leave it out"
            )
        old = {id(value): name for name, value in tensors.items()}
        own = dict(model.state_dict(keep_vars=True))
        self.renamed = {name: old[id(value)] for name, value in own.items() if id(value) in old}
        """Names of the base's weights: as they are now, and as they were."""
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        self.base_names = frozenset(name for name in self.renamed if name not in trained)
        """Of the weights that the reference to the base stands for."""
        self.model = model
        if weights is not None:
            expected = self._saved().keys()
            self._refuse([*(expected - weights.keys())], [*(weights.keys() - expected)])
            peft.set_peft_model_state_dict(self._wrapped, dict(weights))
        elif not meta:
            self._check_saved()
        if state is not None:
            lacking = [name for name in own if name not in self.base_names and name not in state]
            self._refuse(lacking, model.load_state_dict(dict(state), strict=False).unexpected_keys)

    def _saved(self) -> dict[str, Tensor]:
        """The weights of the adapter by the names that they have in its file."""
        state = peft_module().get_peft_model_state_dict(self._wrapped, save_embedding_layers=False)
        return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}

    def _check_saved(self) -> None:
        """Raise ``ValueError`` if peft can't read what it saves, or saves only a part of what is trained."""
        trained = [value for value in self.model.parameters() if value.requires_grad]
        kept, state = [value.detach().clone() for value in trained], self._saved()
        problem = "a part of it is not saved"
        try:
            with torch.no_grad():
                for value in trained:
                    value.add_(1)
            peft_module().set_peft_model_state_dict(self._wrapped, state)
            if all(torch.equal(value, before) for value, before in zip(trained, kept, strict=True)):
                return
        except (KeyError, ValueError, RuntimeError) as error:
            problem = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"adapter: peft can't load again what it saves of this {self.kind} ({problem}); name other "
            "target_modules or modules_to_save"
        )

    def _refuse(self, missing: list[str], unexpected: list[str]) -> None:
        if missing or unexpected:
            raise ValueError(
                f"the weights of the adapter don't fit its configuration and its base {self._base.source!r}: "
                f"missing {shortened(missing) or 'none'}, unexpected {shortened(unexpected) or 'none'}"
            )

    @property
    def config(self) -> Any:
        """Its configuration of peft."""
        return self._wrapped.peft_config[NAME]

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within this block all weights take gradients, and those of the adapter are not their initial ones.

        A fresh adapter usually adds nothing to the outputs, so a probe would not see it.

        Raises:
            ValueError: if the model doesn't run with the adapter.
        """
        flags = [(value, value.requires_grad) for value in self.model.parameters()]
        trained = [value for value, needs in flags if needs]
        kept = [value.detach().clone() for value in trained]
        generator = torch.Generator().manual_seed(0)
        try:
            with torch.no_grad():
                for value in trained:
                    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
                    value.add_(noise.to(value), alpha=NOISE)
            for value, _ in flags:
                value.requires_grad_(value.is_floating_point())
            yield
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"adapter: the model doesn't run with {self.kind}: {error}") from error
        finally:
            with torch.no_grad():
                for value, before in zip(trained, kept, strict=True):
                    value.copy_(before)
            for value, needs in flags:
                value.requires_grad_(needs)

    def freeze_base(self) -> None:
        """Freeze the base again, after something has unfrozen all."""
        for name, value in self.model.named_parameters():
            if name in self.base_names:
                value.requires_grad_(False)

    def check_base(self) -> None:
        """Raise ``ValueError`` if a weight of the base is trained, which a reference to it would lose."""
        trained = [
            name
            for name, value in self.model.named_parameters()
            if value.requires_grad and name in self.base_names
        ]
        if trained:
            raise ValueError(
                f"weights of the adapter's base are trained ({shortened(trained)}), and only the adapter "
                "would be saved: freeze them by encoder.freeze_unused(), or train without an adapter"
            )

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the adapter worked into its weights.

        Raises:
            ValueError: if peft can't merge this adapter.
        """
        try:
            model: PreTrainedModel = copy.deepcopy(self._wrapped).merge_and_unload(safe_merge=True)
        except (NotImplementedError, ValueError, AttributeError) as error:
            raise ValueError(f"a {self.kind} adapter can't be merged into its base: {error}") from error
        return model

    def save(self, folder: Path, weights: bool = True) -> None:
        """Write the adapter as peft does, and the reference to its base.

        Raises:
            ValueError: if a weight of the base is trained.
        """
        self.check_base()
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        base = self._base.lasting()
        config.inference_mode, config.base_model_name_or_path = True, base.source
        config.revision = base.revision
        config.save_pretrained(str(folder))
        (folder / BASE).write_text(json.dumps(dataclasses.asdict(base), indent=2) + "\n", encoding="utf-8")
        if weights:
            save_file(self._saved(), folder / WEIGHTS)


def referenced(module: nn.Module) -> dict[str, Tensor]:
    """The weights of ``module``, by name, that references to the bases of its adapters stand for.

    Checkpoints leave them out, and they are those of the base when a checkpoint is loaded.

    Raises:
        ValueError: if one of them is trained.
    """
    found: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        adapter = getattr(part, "adapter", None)
        if isinstance(adapter, Adapter):
            adapter.check_base()
            prefix = f"{name}.model." if name else "model."
            state = adapter.model.state_dict()
            found |= {f"{prefix}{each}": state[each] for each in adapter.base_names}
    return found
