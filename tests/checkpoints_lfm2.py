"""Small random LFM2 checkpoints, dense and mixture, by the names and layouts that Hugging Face and MLX give them."""

import json

import mlx.core as mx
from smelt.bench import checkpoints

LAYERS = ["conv", "conv", "full_attention", "conv"]
BASE = {
    "model_type": "lfm2", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "norm_eps": 1e-5, "vocab_size": 320, "max_position_embeddings": 512, "conv_L_cache": 3,
    "conv_bias": False, "block_dim": 64, "block_ff_dim": 144, "intermediate_size": 144, "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.2, "block_auto_adjust_ff_dim": True, "layer_types": LAYERS, "eos_token_id": 7,
}  # fmt: skip
MOE = {
    **BASE, "model_type": "lfm2_moe", "num_dense_layers": 2, "num_experts": 8, "num_experts_per_tok": 3,
    "moe_intermediate_size": 48, "use_expert_bias": True, "norm_topk_prob": True, "routed_scaling_factor": 1.5,
    "block_auto_adjust_ff_dim": False, "rope_theta": 1000000.0,
}  # fmt: skip

CONFIGS = {
    "lfm2": BASE,
    "lfm2_bias": {**BASE, "conv_bias": True, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False,
                  "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}},
    "lfm2_idxs": {**BASE, "layer_types": None, "full_attn_idxs": [0, 3], "rope_theta": 20000.0, "tie_embedding": True},
    "lfm2_moe": MOE,
    "lfm2_moe_unbiased": {**MOE, "use_expert_bias": False, "norm_topk_prob": False},
}  # fmt: skip

UNKNOWN_TO_TRANSFORMERS = set()


def attends(config: dict, i: int) -> bool:
    kinds = config["layer_types"]
    return i in config["full_attn_idxs"] if kinds is None else kinds[i] == "full_attention"


def width(config: dict) -> int:
    """The feed-forward's inner width, as the reference derives it."""
    if not config["block_auto_adjust_ff_dim"]:
        return config["intermediate_size"]
    size, multiple = (
        int(config["block_ffn_dim_multiplier"] * int(2 * config["block_ff_dim"] / 3)),
        config["block_multiple_of"],
    )
    return multiple * -(-size // multiple)


def layer_shapes(config: dict, i: int) -> dict[str, tuple[int, ...]]:
    d = config["hidden_size"]
    norms = {"operator_norm": (d,), "ffn_norm": (d,)}
    return norms | (attention(config) if attends(config, i) else conv(config)) | feed_forward(config, i)


def attention(config):
    d = config["hidden_size"]
    h = d // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * h
    return {"self_attn.q_proj": (d, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
            "self_attn.out_proj": (d, d), "self_attn.q_layernorm": (h,), "self_attn.k_layernorm": (h,)}  # fmt: skip


def conv(config):
    d = config["hidden_size"]
    return {"conv.conv": (d, 1, config["conv_L_cache"]), "conv.in_proj": (3 * d, d), "conv.out_proj": (d, d)}


def feed_forward(config, i):
    d, f = config["hidden_size"], width(config)
    if config["model_type"] == "lfm2" or i < config["num_dense_layers"]:
        return {"feed_forward.w1": (f, d), "feed_forward.w3": (f, d), "feed_forward.w2": (d, f)}
    found, f = {"feed_forward.gate": (config["num_experts"], d)}, config["moe_intermediate_size"]
    for e in range(config["num_experts"]):
        found |= {f"feed_forward.experts.{e}.{n}": (d, f) if n == "w2" else (f, d) for n in ("w1", "w2", "w3")}
    return found


def random_of(config: dict) -> dict[str, mx.array]:
    """Everything by Hugging Face's names and layouts."""
    d = config["hidden_size"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.embedding_norm.weight": (d,)}
    for i in range(config["num_hidden_layers"]):
        layer = {f"model.layers.{i}.{name}": shape for name, shape in layer_shapes(config, i).items()}
        shapes |= {f"{name}.weight": shape for name, shape in layer.items()}
        if config["conv_bias"]:
            shapes |= {f"{name}.bias": shape[:1] for name, shape in layer.items() if ".conv." in name}
        if config.get("use_expert_bias") and i >= config["num_dense_layers"]:
            shapes[f"model.layers.{i}.feed_forward.expert_bias"] = (config["num_experts"],)
    return {name: drawn(name, shape, i) for i, (name, shape) in enumerate(sorted(shapes.items()))}


def drawn(name, shape, seed):
    noise = mx.random.normal(shape, key=mx.random.key(seed))
    if name.endswith("norm.weight"):
        return 1.0 + 0.2 * noise
    if name.endswith("bias"):
        return 0.2 * noise
    return noise * (1.0 if "embed" in name else shape[-1] ** -0.5)


def as_mlx(tensors: dict, config: dict) -> dict[str, mx.array]:
    """Layouts and names of mlx-lm: convolutions transposed, experts stacked; the mixture calls w1 gate_proj."""
    found = {n: a.swapaxes(1, 2) if n.endswith("conv.conv.weight") else a for n, a in tensors.items()}
    if config["model_type"] == "lfm2":
        return found
    for old, new in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        for i in range(config["num_hidden_layers"]):
            layer = f"model.layers.{i}.feed_forward"
            if f"{layer}.{old}.weight" in found:
                found[f"{layer}.{new}.weight"] = found.pop(f"{layer}.{old}.weight")
            else:
                stack = [found.pop(f"{layer}.experts.{e}.{old}.weight") for e in range(config["num_experts"])]
                found[f"{layer}.switch_mlp.{new}.weight"] = mx.stack(stack)
    return found


def make(folder, kind: str, *, dtype=None, quantization=None, overrides=None, mlx=False, **changes):
    """Write the checkpoint of a kind, with changes to its config, and return its folder. mlx: in MLX's layout."""
    config = CONFIGS[kind] | changes
    tensors = random_of(config)
    tensors = {n: a if dtype is None or n.endswith("expert_bias") else a.astype(dtype) for n, a in tensors.items()}
    tensors = as_mlx(tensors, config) if mlx or quantization else tensors
    if quantization:
        tensors = packed(tensors, quantization, overrides or {})
        config["quantization"] = {**quantization, **(overrides or {})}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_shards(folder, tensors, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def packed(tensors: dict, spec: dict, overrides: dict) -> dict[str, mx.array]:
    """What mlx-lm packs: matrices and stacks of them, not convolutions."""
    found = {}
    for name, array in tensors.items():
        module = name.removesuffix(".weight")
        own = overrides.get(module, spec)
        if array.ndim < 2 or "conv.conv" in name or "conv1d" in name or own is False:
            found[name] = array
            continue
        parts = mx.quantize(array, **own)
        found |= {f"{module}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts)}
    return found
