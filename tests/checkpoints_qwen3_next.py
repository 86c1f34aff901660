"""Small random checkpoints of Qwen 3 Next and of Qwen 3.5, dense and mixed, alone and inside of a multimodal one."""

import json
from pathlib import Path

import mlx.core as mx
from checkpoints_qwen import stacked
from smelt.bench import checkpoints

BASE = {
    "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6, "vocab_size": 320, "hidden_act": "silu",
    "max_position_embeddings": 512, "tie_word_embeddings": False, "eos_token_id": 2, "full_attention_interval": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
           "shared_expert_intermediate_size": 32}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 100000.0, "partial_rotary_factor": 0.25, "mrope_interleaved": True,
         "mrope_section": [2, 1, 1]}  # fmt: skip

CONFIGS = {
    "qwen3_next": {**BASE, **EXPERTS, "model_type": "qwen3_next", "norm_topk_prob": True, "rope_theta": 100000.0,
                   "partial_rotary_factor": 0.25, "decoder_sparse_step": 1, "mlp_only_layers": [1]},
    "qwen3_next_odd": {**BASE, **EXPERTS, "model_type": "qwen3_next", "norm_topk_prob": False, "rope_theta": 10000.0,
                       "partial_rotary_factor": 0.5, "decoder_sparse_step": 2, "mlp_only_layers": [],
                       "attention_bias": True, "linear_num_value_heads": 2, "linear_conv_kernel_dim": 3,
                       "layer_types": ["full_attention", "linear_attention", "full_attention", "linear_attention"]},
    "qwen3_5": {**BASE, "model_type": "qwen3_5_text", "rope_parameters": MROPE, "tie_word_embeddings": True},
    "qwen3_5_whole": {"model_type": "qwen3_5", "tie_word_embeddings": False, "text_config": {
        **BASE, "model_type": "qwen3_5_text", "rope_parameters": MROPE}},
    "qwen3_5_moe": {**BASE, **EXPERTS, "model_type": "qwen3_5_moe_text", "rope_parameters": MROPE},
    "qwen3_5_moe_whole": {"model_type": "qwen3_5_moe", "tie_word_embeddings": False, "text_config": {
        **BASE, **EXPERTS, "model_type": "qwen3_5_moe_text", "rope_parameters": MROPE}},
}  # fmt: skip

UNKNOWN_TO_TRANSFORMERS = set()
NORMS = ("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")


def text(config: dict) -> dict:
    return config.get("text_config", config)


def fused(config: dict) -> bool:
    """Whether q, k, v and z of a head are kept together, as Qwen 3 Next does."""
    return config["model_type"] == "qwen3_next"


def full(config: dict, i: int) -> bool:
    kinds = config.get("layer_types")
    return kinds[i] == "full_attention" if kinds else (i + 1) % config["full_attention_interval"] == 0


def sparse(config: dict, i: int) -> bool:
    dense = i in config.get("mlp_only_layers", []) or (i + 1) % config.get("decoder_sparse_step", 1)
    return "num_experts" in config and not dense


def mixer(config: dict, i: int) -> dict[str, tuple[int, ...]]:
    d, h = config["hidden_size"], config["head_dim"]
    if full(config, i):
        q, kv = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
        parts = {"q": (2 * q, d), "k": (kv, d), "v": (kv, d), "o": (d, q)}
        found = {f"self_attn.{part}_proj.weight": shape for part, shape in parts.items()}
        if config.get("attention_bias"):
            found |= {f"self_attn.{part}_proj.bias": shape[:1] for part, shape in parts.items()}
        return found | {"self_attn.q_norm.weight": (h,), "self_attn.k_norm.weight": (h,)}
    heads = config["linear_num_value_heads"]
    k, v = config["linear_num_key_heads"] * config["linear_key_head_dim"], heads * config["linear_value_head_dim"]
    parts = {"qkv": 2 * k + v, "z": v, "b": heads, "a": heads}
    if fused(config):
        parts = {"qkvz": 2 * k + 2 * v, "ba": 2 * heads}
    return {
        **{f"linear_attn.in_proj_{part}.weight": (size, d) for part, size in parts.items()},
        "linear_attn.conv1d.weight": (2 * k + v, 1, config["linear_conv_kernel_dim"]),
        "linear_attn.A_log": (heads,), "linear_attn.dt_bias": (heads,),
        "linear_attn.norm.weight": (config["linear_value_head_dim"],), "linear_attn.out_proj.weight": (d, v),
    }  # fmt: skip


def gated(name: str, d: int, f: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.gate_proj.weight": (f, d), f"{name}.up_proj.weight": (f, d), f"{name}.down_proj.weight": (d, f)}


def feed_forward(config: dict, i: int) -> dict[str, tuple[int, ...]]:
    """Qwen 3.5 keeps its experts as stacks, Qwen 3 Next one by one."""
    d = config["hidden_size"]
    if not sparse(config, i):
        return gated("mlp", d, config["intermediate_size"])
    count, f = config["num_experts"], config["moe_intermediate_size"]
    found = {"mlp.gate.weight": (count, d), "mlp.shared_expert_gate.weight": (1, d),
             **gated("mlp.shared_expert", d, config["shared_expert_intermediate_size"])}  # fmt: skip
    if not fused(config):
        return found | {"mlp.experts.gate_up_proj": (count, 2 * f, d), "mlp.experts.down_proj": (count, d, f)}
    for e in range(count):
        found |= gated(f"mlp.experts.{e}", d, f)
    return found


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    d = config["hidden_size"]
    found = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        layer = {**mixer(config, i), **feed_forward(config, i), "input_layernorm.weight": (d,),
                 "post_attention_layernorm.weight": (d,)}  # fmt: skip
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return found


def random_tensors(config: dict) -> dict[str, mx.array]:
    """By Hugging Face's names and layouts: norms minus one, but for the delta net's own."""
    tensors = checkpoints.random_of_shapes(shapes(config))
    for name in tensors:
        if name.endswith(NORMS):
            tensors[name] = tensors[name] - 1
        if name.endswith(("A_log", "dt_bias")):
            tensors[name] = tensors[name] * 0.5
    return tensors


def of_mlx(tensors: dict) -> dict[str, mx.array]:
    """As MLX's converter writes it: whole norms, convolutions turned, gate and up apart."""
    found = {}
    for name, array in stacked(tensors).items():
        if name.endswith(".experts.gate_up_proj"):
            gate, up = mx.split(array, 2, axis=1)
            head = name.removesuffix("experts.gate_up_proj") + "switch_mlp"
            found |= {f"{head}.gate_proj.weight": gate, f"{head}.up_proj.weight": up}
        elif name.endswith(".experts.down_proj"):
            found[name.replace("experts", "switch_mlp") + ".weight"] = array
        elif name.endswith("conv1d.weight"):
            found[name] = array.moveaxis(2, 1)
        else:
            found[name] = array + 1 if name.endswith(NORMS) else array
    return found


def whole(tensors: dict, prefix: str = "model.language_model.") -> dict[str, mx.array]:
    """Inside of a multimodal checkpoint, with a piece of its vision tower and of its drafting layer."""
    found = {prefix + name.removeprefix("model.") if name.startswith("model.") else name: array
             for name, array in tensors.items()}  # fmt: skip
    return found | {"model.visual.patch_embed.weight": mx.zeros((4, 4)), "mtp.layers.0.fc.weight": mx.zeros((4, 4))}


def make(folder: Path, kind: str, *, dtype=None, quantization=None, overrides=None, mlx=False, **changes) -> Path:
    """Write the checkpoint and return its folder: by Hugging Face's names, or quantised (or `mlx`) by those of MLX."""
    config = json.loads(json.dumps(CONFIGS[kind]))
    text(config).update(changes)
    tensors = {name: array.astype(dtype or mx.float32) for name, array in random_tensors(text(config)).items()}
    if mlx or quantization:
        tensors = of_mlx(tensors)
    if quantization:
        tensors = checkpoints.quantized(tensors, quantization, overrides or {})
        config["quantization"] = {**quantization, **(overrides or {})}
    if "text_config" in config:
        tensors = whole(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_shards(folder, tensors, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
