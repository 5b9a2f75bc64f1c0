"""Tiny models with random weights, one per family."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

VOCABULARY = 60
WINDOW = 8

_ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_DECODER = _ENCODER | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
_ROBERTA = _ENCODER | {"pad_token_id": 1, "max_position_embeddings": 66}

PACKABLE: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 64,
        "sinusoidal_pos_embds": False,
    },
    "albert": _ENCODER | {"embedding_size": 16},
    "electra": _ENCODER | {"embedding_size": 16},
    "modernbert": _ENCODER
    | {
        "num_hidden_layers": 3,
        "local_attention": 2 * WINDOW,
        "global_attn_every_n_layers": 3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "eurobert": _DECODER,
    "qwen3": _DECODER,
    "qwen2": _DECODER,
    "llama": _DECODER,
    "mistral": _DECODER | {"sliding_window": WINDOW},
    "gemma3_text": _DECODER | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    "mpnet": _ROBERTA,
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "eos_token_id": 2,
        "bos_token_id": 1,
    },
}
"""Families that must run packed."""

PADDED: dict[str, dict[str, Any]] = {
    "deberta-v2": _ENCODER
    | {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pad_token_id": 0,
    },
}
"""Families that compute attention themselves, and must fall back."""

UNPADDED: dict[str, dict[str, Any]] = {
    "fnet": {name: value for name, value in _ENCODER.items() if name != "num_attention_heads"},
    "convbert": _ENCODER | {"embedding_size": 16},
    "mobilebert": _ENCODER | {"embedding_size": 16, "intra_bottleneck_size": 16},
    "yoso": _ENCODER | {"use_expectation": True},
}
"""Families whose vectors padding changes: mixing, convolutions and shifts see past the mask."""


def make(
    family: str, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A model of ``family`` with weights that don't depend on the state of the random generator."""
    from lit_metric.encoders.pretrained import set_dropout

    settings = {"vocab_size": VOCABULARY} | (PACKABLE | PADDED | UNPADDED)[family] | changes
    config = AutoConfig.for_model(family, **settings)
    set_dropout(config, dropout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():  # large enough that who sees whom shows in the output
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()
