"""Small random checkpoints of Gemma 4, with every quirk of its published sizes."""

import json

import mlx.core as mx
from smelt.bench import checkpoints

SLIDING, FULL = "sliding_attention", "full_attention"
BASE = {
    "model_type": "gemma4_text", "hidden_size": 96, "num_hidden_layers": 4, "intermediate_size": 160,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "rms_norm_eps": 1e-5,
    "vocab_size": 320, "vocab_size_per_layer_input": 320, "sliding_window": 24, "max_position_embeddings": 512,
    "layer_types": [SLIDING, SLIDING, SLIDING, FULL], "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
    "attention_k_eq_v": False, "enable_moe_block": False, "use_double_wide_mlp": False, "tie_word_embeddings": True,
    "final_logit_softcapping": 5.0, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 3, "eos_token_id": 1,
    "rope_parameters": {SLIDING: {"rope_type": "default", "rope_theta": 10000.0}, FULL: {
        "rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}},
}  # fmt: skip

SMALL = {  # E2B and E4B
    "num_hidden_layers": 7, "layer_types": [SLIDING, FULL, SLIDING, FULL, SLIDING, SLIDING, FULL],
    "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 32, "use_double_wide_mlp": True, "num_key_value_heads": 1,
}  # fmt: skip
K_EQ_V = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
MIXTURE = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 64}

CONFIGS = {
    "gemma4_small": {**BASE, **SMALL},
    "gemma4_dense": {**BASE, **K_EQ_V, "tie_word_embeddings": False},  # 31B, but for the tie
    "gemma4_mixture": {**BASE, **K_EQ_V, **MIXTURE},  # 26B-A4B
    "gemma4_all": {**BASE, **SMALL, **K_EQ_V, **MIXTURE, "num_key_value_heads": 2},
    "gemma4_unified": {name: value for name, value in {  # 12B: neither inputs for each layer nor experts
        **BASE, **K_EQ_V, "model_type": "gemma4_unified_text"}.items()
        if name not in ("hidden_size_per_layer_input", "vocab_size_per_layer_input", "enable_moe_block")},
    "gemma4_media": {"model_type": "gemma4", "text_config": {**BASE, **SMALL}, "image_token_id": 300,
                     "audio_token_id": 301, "video_token_id": 302, "vision_config": None, "audio_config": None,
                     "tie_word_embeddings": True},
}  # fmt: skip
CONFIGS["gemma4_image"] = CONFIGS["gemma4_media"]  # and `image` stands where the prompt has an image's placeholder
UNKNOWN_TO_TRANSFORMERS = set()
MEDIA_NAMES = ("model.language_model.", "language_model.model.")  # Hugging Face's and MLX's


def image(count: int) -> mx.array:
    """[count, D], as a tower of images would give it."""
    return mx.random.normal((count, BASE["hidden_size"]), key=mx.random.key(7))


def inputs(kind: str) -> dict:
    """What transformers' model is given besides the tokens."""
    if kind != "gemma4_image":
        return {}
    import numpy
    import torch
    from parity import PROMPT

    pixels = torch.tensor(numpy.array(image(PROMPT.count(CONFIGS[kind]["image_token_id"]))))
    return {"mm_encoder_outputs": {"image": type("Image", (), {"pooler_output": [pixels]})}}


def text_of(config: dict) -> dict:
    return config.get("text_config", config)


def layer_shapes(c: dict, i: int) -> dict[str, tuple[int, ...]]:
    d, f, own = c["hidden_size"], c["intermediate_size"], i < c["num_hidden_layers"] - c["num_kv_shared_layers"]
    full = c["layer_types"][i] == FULL
    h, kv = (c["global_head_dim"] if full else c["head_dim"]), c["num_key_value_heads"]
    k_eq_v = full and c["attention_k_eq_v"]
    kv = c["num_global_key_value_heads"] if k_eq_v else kv
    wide = 2 * f if c["use_double_wide_mlp"] and not own else f
    norms = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
    found = {
        "self_attn.q_proj": (c["num_attention_heads"] * h, d), "self_attn.o_proj": (d, c["num_attention_heads"] * h),
        "self_attn.q_norm": (h,), "mlp.gate_proj": (wide, d), "mlp.up_proj": (wide, d), "mlp.down_proj": (d, wide),
        "self_attn.k_proj": (kv * h, d), "self_attn.k_norm": (h,),  # stored for layers that share, too
    }  # fmt: skip
    if not k_eq_v:
        found["self_attn.v_proj"] = (kv * h, d)
    if p := c.get("hidden_size_per_layer_input"):
        found |= {"per_layer_input_gate": (p, d), "per_layer_projection": (d, p)}
        norms.append("post_per_layer_input_norm")
    if c.get("enable_moe_block"):
        found["router.proj"] = (c["num_experts"], d)
        norms += ["pre_feedforward_layernorm_2", "post_feedforward_layernorm_1", "post_feedforward_layernorm_2"]
    return {f"{name}.weight": shape for name, shape in (found | dict.fromkeys(norms, (d,))).items()} | bare_shapes(c)


def bare_shapes(c: dict) -> dict[str, tuple[int, ...]]:
    """Tensors of a layer whose names do not end with .weight."""
    found = {"layer_scalar": (1,)}
    if c.get("enable_moe_block"):
        e, d, f = c["num_experts"], c["hidden_size"], c["moe_intermediate_size"]
        found |= {"router.scale": (d,), "router.per_expert_scale": (e,), "experts.gate_up_proj": (e, 2 * f, d)}
        found["experts.down_proj"] = (e, d, f)
    return found


def shapes(c: dict) -> dict[str, tuple[int, ...]]:
    d, p, layers = c["hidden_size"], c.get("hidden_size_per_layer_input"), c["num_hidden_layers"]
    found = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        found["lm_head.weight"] = (c["vocab_size"], d)
    if p:
        found["model.embed_tokens_per_layer.weight"] = (c["vocab_size"], layers * p)
        found["model.per_layer_model_projection.weight"] = (layers * p, d)
        found["model.per_layer_projection_norm.weight"] = (p,)
    for i in range(layers):
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer_shapes(c, i).items()}
    return found


def random_tensors(c: dict) -> dict[str, mx.array]:
    tensors = {}
    for i, (name, shape) in enumerate(sorted(shapes(c).items())):
        noise = mx.random.normal(shape, key=mx.random.key(i))
        if len(shape) == 1:
            tensors[name] = 1.0 + 0.2 * noise
        else:
            tensors[name] = noise * (shape[-1] ** -0.5)
    return tensors


def make(folder, kind: str, *, dtype=mx.float32, quantization=None, overrides=None, **changes):
    """The checkpoint of a kind, with changes to the config of its language model; the experts of a quantised one are
    named as MLX names them, all others as Hugging Face does."""
    config = json.loads(json.dumps(CONFIGS[kind]))
    text_of(config).update(changes)
    tensors = {name: array.astype(dtype) for name, array in random_tensors(text_of(config)).items()}
    if quantization:
        tensors = packed(as_mlx(tensors), quantization, overrides or {})
        config["quantization"] = {**quantization, **(overrides or {})}
    if "text_config" in config:
        tensors = {renamed(name, MEDIA_NAMES[0]): array for name, array in tensors.items()}
    return write(folder, config, tensors)


def write(folder, config: dict, tensors: dict):
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_shards(folder, tensors, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def renamed(name: str, prefix: str) -> str:
    return prefix + name.removeprefix("model.") if name.startswith("model.") else name


def as_mlx(tensors: dict) -> dict[str, mx.array]:
    """MLX's own names: experts in three stacks, and no keys of layers that do not use them."""
    found = {}
    for name, array in tensors.items():
        folder, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            gate, up = mx.split(array, 2, axis=1)
            found |= {f"{folder}.switch_glu.gate_proj.weight": gate, f"{folder}.switch_glu.up_proj.weight": up}
        elif folder.endswith(".experts"):
            found[f"{folder}.switch_glu.{last}.weight"] = array
        else:
            found[name] = array
    return found


def packed(tensors: dict, spec: dict, overrides: dict) -> dict[str, mx.array]:
    """Also the stacks of experts, which bench.checkpoints leaves as they are."""
    stacks = {name: array for name, array in tensors.items() if array.ndim == 3}
    rest = {name: array for name, array in tensors.items() if array.ndim != 3}
    found = checkpoints.quantized(rest, spec, overrides)
    for name, array in stacks.items():
        module = name.removesuffix(".weight")
        parts = mx.quantize(array, **overrides.get(module, spec))
        found |= {f"{module}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts)}
    return found
