"""Small random checkpoints of Qwen 2, the mixtures of Qwen 3, and Mixtral."""

import itertools
import json
import re
from pathlib import Path

import mlx.core as mx
from checkpoints import BASE
from smelt.bench import checkpoints

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "norm_topk_prob": True,
           "decoder_sparse_step": 1, "mlp_only_layers": []}  # fmt: skip

CONFIGS = {
    "qwen2": {**BASE, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2_sliding": {**BASE, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 24,
                      "max_window_layers": 1},
    "qwen3_moe": {**BASE, **EXPERTS, "model_type": "qwen3_moe", "head_dim": 32},
    "qwen3_moe_some": {**BASE, **EXPERTS, "model_type": "qwen3_moe", "head_dim": 16, "num_hidden_layers": 4,
                       "norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "mixtral": {**BASE, "model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2,
                "intermediate_size": 96, "sliding_window": None, "rope_theta": 1000000.0},
    "mixtral_sliding": {**BASE, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1,
                        "intermediate_size": 96, "sliding_window": 24},
}  # fmt: skip

UNKNOWN_TO_TRANSFORMERS = set()


def experts(config: dict, i: int) -> int:
    """How many layer i has; 0: an MLP."""
    if config["model_type"] == "mixtral":
        return config["num_local_experts"]
    if config["model_type"] == "qwen2" or i in config["mlp_only_layers"] or (i + 1) % config["decoder_sparse_step"]:
        return 0
    return config["num_experts"]


def feed_forward(config: dict, i: int) -> dict[str, tuple[int, ...]]:
    d, f, count = config["hidden_size"], config["intermediate_size"], experts(config, i)
    if not count:
        return {"mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f)}
    f = config.get("moe_intermediate_size", f)
    name, gate, up, down = "mlp", "gate_proj", "up_proj", "down_proj"
    if config["model_type"] == "mixtral":
        name, gate, up, down = "block_sparse_moe", "w1", "w3", "w2"
    each = {f"{name}.experts.{e}.{part}": shape for e in range(count)
            for part, shape in ((gate, (f, d)), (up, (f, d)), (down, (d, f)))}  # fmt: skip
    return {f"{name}.gate": (count, d), **each}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    d, h = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
    found = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        layer = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
                 "self_attn.o_proj": (d, q), "input_layernorm": (d,), "post_attention_layernorm": (d,),
                 **feed_forward(config, i)}  # fmt: skip
        if config["model_type"] == "qwen3_moe":
            layer |= {"self_attn.q_norm": (h,), "self_attn.k_norm": (h,)}
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        if config["model_type"] == "qwen2":
            found |= {f"model.layers.{i}.self_attn.{n}_proj.bias": layer[f"self_attn.{n}_proj"][:1] for n in "qkv"}
    return found


def complete(config: dict) -> dict:
    return {"head_dim": config["hidden_size"] // config["num_attention_heads"], **config}


def random_tensors(config: dict) -> dict[str, mx.array]:
    return checkpoints.random_of_shapes(shapes(complete(config)))


def stacked(tensors: dict) -> dict:
    """As MLX keeps experts: one stack for each of gate, up and down."""
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    found = {name: array for name, array in tensors.items() if not re.search(r"\.experts\.\d", name)}
    for name in tensors:
        if ".experts.0." in name:
            head, part = name.split(".experts.0.")
            part = part.removesuffix(".weight")
            each = (f"{head}.experts.{e}.{part}.weight" for e in itertools.count())
            present = itertools.takewhile(tensors.__contains__, each)
            found[f"{head}.switch_mlp.{names.get(part, part)}.weight"] = mx.stack([tensors[other] for other in present])
    return found


def make(folder: Path, kind: str, *, dtype=None, quantization=None, overrides=None, **changes) -> Path:
    """Write the checkpoint and return its folder; with experts one by one, or quantised and then stacked."""
    config = complete(CONFIGS[kind] | changes)
    tensors = {name: array.astype(dtype or mx.float32) for name, array in random_tensors(config).items()}
    if quantization:
        tensors = checkpoints.quantized(stacked(tensors), quantization, overrides or {})
        config["quantization"] = {**quantization, **(overrides or {})}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_shards(folder, tensors, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
