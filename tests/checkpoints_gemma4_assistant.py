"""Small random drafters for the Gemma 4 checkpoints of checkpoints_gemma4.py."""

import json

import checkpoints_gemma4
import mlx.core as mx
from checkpoints_gemma4 import FULL, SLIDING
from smelt.bench import checkpoints

TEXT = {
    **checkpoints_gemma4.BASE, "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96,
    "num_attention_heads": 4, "layer_types": [SLIDING, SLIDING, SLIDING, FULL], "num_kv_shared_layers": 4,
    "vocab_size_per_layer_input": 0, "final_logit_softcapping": None,
}  # fmt: skip
BASE = {
    "model_type": "gemma4_assistant", "backbone_hidden_size": 96, "use_ordered_embeddings": False, "num_centroids": 40,
    "centroid_intermediate_top_k": 6, "tie_word_embeddings": True, "text_config": TEXT,
}  # fmt: skip
ONE_HEAD = {"num_key_value_heads": 1}  # of keys, as gemma4_small has
K_EQ_V = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
CONFIGS = {
    "gemma4_small": {**BASE, "text_config": {**TEXT, **ONE_HEAD}},
    "gemma4_dense": {**BASE, "use_ordered_embeddings": True, "text_config": {**TEXT, **K_EQ_V}},
    "gemma4_mixture": {**BASE, "text_config": {**TEXT, **K_EQ_V}},
}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    c = config["text_config"]
    d, wide = c["hidden_size"], config["backbone_hidden_size"]
    found = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    found |= {"pre_projection.weight": (d, 2 * wide), "post_projection.weight": (wide, d)}
    for i in range(c["num_hidden_layers"]):
        own = checkpoints_gemma4.layer_shapes({**c, "num_kv_shared_layers": 0}, i)
        found |= {f"model.layers.{i}.{n}": s for n, s in own.items() if not n.startswith(("self_attn.k", "self_attn.v"))}
    if config["use_ordered_embeddings"]:
        found["masked_embedding.centroids.weight"] = (config["num_centroids"], d)
    return found


def random_tensors(config: dict) -> dict[str, mx.array]:
    tensors = {}
    for i, (name, shape) in enumerate(sorted(shapes(config).items())):
        noise = mx.random.normal(shape, key=mx.random.key(1000 + i))
        tensors[name] = 1.0 + 0.2 * noise if len(shape) == 1 else noise * (shape[-1] ** -0.5)
    if config["use_ordered_embeddings"]:
        order = mx.random.permutation(config["text_config"]["vocab_size"], key=mx.random.key(7))
        tensors["masked_embedding.token_ordering"] = order.astype(mx.int32)
    return tensors


def make(folder, kind: str, *, dtype=mx.float32, quantization=None, text=None, **changes):
    config = json.loads(json.dumps(CONFIGS[kind])) | changes
    config["text_config"] |= text or {}
    tensors = {n: a.astype(dtype) if a.dtype == mx.float32 else a for n, a in random_tensors(config).items()}
    if quantization:
        config["quantization"] = quantization
        tensors = checkpoints.quantized(tensors, quantization, {})
    return checkpoints_gemma4.write(folder, config, tensors)
