"""Small random checkpoints with the real architectures and names, written as Hugging Face or MLX would."""

import json

import mlx.core as mx

BASE = {
    "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 160, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 320, "rope_theta": 10000.0,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "eos_token_id": 2,
}  # fmt: skip

CONFIGS = {
    "llama": {**BASE, "model_type": "llama"},
    "llama_tied": {**BASE, "model_type": "llama", "tie_word_embeddings": True, "head_dim": 32},
    "llama_bias": {**BASE, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama_llama3": {**BASE, "model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}},
    "llama_linear": {**BASE, "model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama_yarn": {**BASE, "model_type": "llama", "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "llama_dynamic": {**BASE, "model_type": "llama", "max_position_embeddings": 24, "rope_scaling": {
        "rope_type": "dynamic", "factor": 4.0}},
    "llama_sliding": {**BASE, "model_type": "llama", "sliding_window": 24,
                      "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "mistral": {**BASE, "model_type": "mistral", "sliding_window": None, "head_dim": 16},
    "mistral_sliding": {**BASE, "model_type": "mistral", "sliding_window": 24, "head_dim": 16},
    "qwen3": {**BASE, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "gemma3": {**BASE, "model_type": "gemma3_text", "head_dim": 32, "num_hidden_layers": 4, "sliding_window": 24,
               "sliding_window_pattern": 3, "query_pre_attn_scalar": 24, "rope_local_base_freq": 10000.0,
               "rope_theta": 1000000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
               "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"},
}  # fmt: skip


def config_of(kind: str) -> dict:
    config = dict(CONFIGS[kind])
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    d, f, h = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
    found = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, q), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f),
            "input_layernorm": (d,), "post_attention_layernorm": (d,),
        }  # fmt: skip
        if config["model_type"] in ("qwen3", "gemma3_text"):
            layer |= {"self_attn.q_norm": (h,), "self_attn.k_norm": (h,)}
        if config["model_type"] == "gemma3_text":
            layer |= {"pre_feedforward_layernorm": (d,), "post_feedforward_layernorm": (d,)}
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        found |= {f"model.layers.{i}.{name}.bias": layer[name][:1] for name in biased(config)}
    return found


def biased(config: dict) -> list[str]:
    names = [f"self_attn.{n}_proj" for n in "qkvo"] if config.get("attention_bias") else []
    return names + ([f"mlp.{n}_proj" for n in ("gate", "up", "down")] if config.get("mlp_bias") else [])


def random_tensors(config: dict, seed: int = 0) -> dict[str, mx.array]:
    """Weights large enough that every block changes the result, norms around their neutral value."""
    neutral = 0.0 if config["model_type"] == "gemma3_text" else 1.0
    tensors = {}
    for i, (name, shape) in enumerate(sorted(shapes(config).items())):
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
        if array.ndim != 2 or own is False or not name.endswith(".weight"):
            packed[name] = array
            continue
        parts = mx.quantize(array, **own)
        packed |= {f"{module}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts)}
    return packed


def make(folder, kind: str, dtype=mx.float32, quantization: dict | None = None, overrides: dict | None = None,
         prefix: str = "", shard_count: int = 1, **changes):  # fmt: skip
    """Write a checkpoint folder (without a tokenizer) and return it."""
    config = config_of(kind) | changes
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
