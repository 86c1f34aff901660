"""Random checkpoints with the real architectures and names, written as Hugging Face or MLX would.

A checkpoint is a folder with config.json and safetensors; it has no tokenizer.
"""

import json
from pathlib import Path

import mlx.core as mx

COMMON = {"rms_norm_eps": 1e-6, "max_position_embeddings": 40960, "eos_token_id": 0}
LLAMA = {**COMMON, "model_type": "llama", "rope_theta": 500000.0}
QWEN3 = {**COMMON, "model_type": "qwen3", "rope_theta": 1000000.0, "tie_word_embeddings": True, "head_dim": 128}
QWEN3_MOE = {**QWEN3, "model_type": "qwen3_moe", "tie_word_embeddings": False, "norm_topk_prob": True,
             "decoder_sparse_step": 1, "mlp_only_layers": []}  # fmt: skip
GEMMA3 = {**COMMON, "model_type": "gemma3_text", "sliding_window_pattern": 6, "rope_theta": 1000000.0,
          "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
          "tie_word_embeddings": True}  # fmt: skip

# The shapes that benchmarks speak of, by the names of the published models that have them; "tiny" ones for a CPU.
SHAPES = {
    "tiny": {**QWEN3, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 384, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1024},
    "tiny-gemma": {**GEMMA3, "hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 256,
                   "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1024,
                   "sliding_window": 32, "query_pre_attn_scalar": 64},
    "tiny-moe": {**QWEN3_MOE, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 384,
                 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1024,
                 "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "small-100m": {**QWEN3, "hidden_size": 768, "num_hidden_layers": 8, "intermediate_size": 2048,
                   "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000},
    "qwen3-0.6b": {**QWEN3, "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072,
                   "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936},
    "qwen3-4b": {**QWEN3, "hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728,
                 "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936},
    "llama-3.2-1b": {**LLAMA, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
                     "tie_word_embeddings": True},
    "gemma-3-4b": {**GEMMA3, "hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240,
                   "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
                   "sliding_window": 1024, "query_pre_attn_scalar": 256},
    "qwen3-30b-a3b": {**QWEN3_MOE, "hidden_size": 2048, "num_hidden_layers": 48, "intermediate_size": 6144,
                      "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936, "num_experts": 128,
                      "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}  # fmt: skip


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the unpacked checkpoint by name, as MLX writes it."""
    d, h = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
    found = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, q), **feed_forward(config),
            "input_layernorm": (d,), "post_attention_layernorm": (d,),
        }  # fmt: skip
        if config["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text"):
            layer |= {"self_attn.q_norm": (h,), "self_attn.k_norm": (h,)}
        if config["model_type"] == "gemma3_text":
            layer |= {"pre_feedforward_layernorm": (d,), "post_feedforward_layernorm": (d,)}
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        found |= {f"model.layers.{i}.{name}.bias": layer[name][:1] for name in biased(config)}
    return found


def feed_forward(config: dict) -> dict[str, tuple[int, ...]]:
    d = config["hidden_size"]
    if "num_experts" not in config:
        f = config["intermediate_size"]
        return {"mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f)}
    e, f = config["num_experts"], config["moe_intermediate_size"]
    stacks = {"gate_proj": (e, f, d), "up_proj": (e, f, d), "down_proj": (e, d, f)}
    return {"mlp.gate": (e, d)} | {f"mlp.switch_mlp.{name}": shape for name, shape in stacks.items()}


def biased(config: dict) -> list[str]:
    names = [f"self_attn.{n}_proj" for n in "qkvo"] if config.get("attention_bias") else []
    return names + ([f"mlp.{n}_proj" for n in ("gate", "up", "down")] if config.get("mlp_bias") else [])


def random_tensors(config: dict, seed: int = 0) -> dict[str, mx.array]:
    return random_of_shapes(shapes(config), 0.0 if config["model_type"] == "gemma3_text" else 1.0, seed)


def random_of_shapes(shapes: dict[str, tuple[int, ...]], neutral: float = 1.0, seed: int = 0) -> dict[str, mx.array]:
    """Weights large enough that every block changes the result, norms around their neutral value."""
    tensors = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        noise = mx.random.normal(shape, key=mx.random.key(seed * 100003 + i))
        if name.endswith("norm.weight"):
            tensors[name] = neutral + 0.2 * noise
        elif name.endswith("bias"):
            tensors[name] = 0.1 * noise
        else:
            tensors[name] = noise * (1.0 if "embed" in name else shape[-1] ** -0.5)
    return tensors


def quantized(tensors: dict, spec: dict, overrides: dict) -> dict[str, mx.array]:
    packed = {}
    for name, array in tensors.items():
        module = name.removesuffix(".weight")
        own = overrides.get(module, spec)
        if array.ndim < 2 or own is False or not name.endswith(".weight") or "conv" in name:
            packed[name] = array
            continue
        parts = mx.quantize(array, **own)
        packed |= {f"{module}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts)}
    return packed


def write(folder: Path, config: dict, dtype=mx.float32, quantization: dict | None = None,
          overrides: dict | None = None, prefix: str = "", shard_count: int = 1) -> Path:  # fmt: skip
    """Write a checkpoint folder and return it. `overrides` are per-module entries of the quantization config."""
    config = dict(config)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    tensors = {name: array.astype(dtype) for name, array in random_tensors(config).items()}
    if quantization:
        tensors = quantized(tensors, quantization, overrides or {})
        config["quantization"] = {**quantization, **(overrides or {})}
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, {prefix + name: array for name, array in tensors.items()}, shard_count)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_shards(folder, tensors: dict, count: int) -> None:
    names = sorted(tensors)
    if count == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
        return
    index = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::count]}
        mx.save_safetensors(str(folder / file), part, {"format": "mlx"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
