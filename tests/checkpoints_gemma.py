"""Small random checkpoints of Gemma 2, and of what tests/checkpoints.py leaves open of Gemma 3."""

import json

import mlx.core as mx
from checkpoints import BASE
from smelt.bench import checkpoints

GEMMA2 = {
    **BASE, "model_type": "gemma2", "hidden_size": 96, "head_dim": 32, "num_hidden_layers": 4, "sliding_window": 24,
    "query_pre_attn_scalar": 24, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0,
    "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip

CONFIGS = {
    "gemma2": GEMMA2,
    "gemma2_full": {**GEMMA2, "sliding_window": 512},
    "gemma3_odd": {  # a width without a whole root, logits capped as early configs can ask for, rope_parameters
        **BASE, "model_type": "gemma3_text", "hidden_size": 96, "head_dim": 32, "num_hidden_layers": 4,
        "sliding_window": 24, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0, "tie_word_embeddings": True,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}},
        "hidden_activation": "gelu_pytorch_tanh"},
}  # fmt: skip
UNKNOWN_TO_TRANSFORMERS = set()


def make(folder, kind: str, *, dtype=mx.float32, quantization=None, overrides=None, prefix="", **changes):
    config = CONFIGS[kind] | changes
    tensors = {name: array.astype(dtype) for name, array in random_tensors(config).items()}
    if quantization:
        tensors = checkpoints.quantized(tensors, quantization, overrides or {})
        config["quantization"] = {**quantization, **(overrides or {})}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_shards(folder, {prefix + name: array for name, array in tensors.items()}, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_tensors(config: dict) -> dict[str, mx.array]:
    """Gemma 2 has the tensors of Gemma 3, but for the norms on heads; scores large enough for their cap to matter."""
    tensors = checkpoints.random_tensors(config | {"model_type": "gemma3_text"})
    if config["model_type"] == "gemma3_text":
        return tensors
    return {
        name: array * 2 if name.endswith("q_proj.weight") else array
        for name, array in tensors.items()
        if not name.endswith(("q_norm.weight", "k_norm.weight"))
    }
