"""Small random Nemotron-H checkpoints by the names and layouts that Hugging Face and MLX give them."""

import json

import mlx.core as mx
from checkpoints_lfm2 import packed
from smelt.bench import checkpoints

# time_step_min is 0 because transformers clips with it; the published code, Megatron and mlx-lm with time_step_limit.
BASE = {
    "model_type": "nemotron_h", "hidden_size": 64, "vocab_size": 320, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "layer_norm_epsilon": 1e-5, "intermediate_size": 96,
    "mamba_num_heads": 8, "mamba_head_dim": 12, "ssm_state_size": 16, "n_groups": 2, "conv_kernel": 4,
    "use_conv_bias": True, "use_bias": False, "mamba_proj_bias": False, "mlp_bias": False, "attention_bias": False,
    "mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "time_step_min": 0.0, "time_step_max": 0.1,
    "time_step_limit": [0.0, float("inf")], "chunk_size": 8, "max_position_embeddings": 512, "eos_token_id": 2,
    "tie_word_embeddings": False, "hybrid_override_pattern": "M-M*-MM*-",
}  # fmt: skip
MOE = {
    **BASE, "n_routed_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 80, "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "hybrid_override_pattern": "MEM*EME",
}  # fmt: skip


def listed(config: dict, *kinds: str) -> dict:
    """The same with a list of names in place of the pattern of letters."""
    return {key: value for key, value in config.items() if key != "hybrid_override_pattern"} | {
        "layers_block_type": list(kinds)
    }


CONFIGS = {
    "nemotron_h": {**BASE, "num_hidden_layers": 9},
    "nemotron_h_bias": listed(BASE, "mlp", "mamba", "attention", "mamba")
    | {"use_bias": True, "mamba_proj_bias": True, "mlp_bias": True, "use_conv_bias": False},
    "nemotron_h_limit": {**BASE, "time_step_limit": [0.3, 0.9], "attention_bias": True},
    "nemotron_h_moe": MOE,
    "nemotron_h_groups": {**MOE, "n_group": 4, "topk_group": 2, "norm_topk_prob": False, "mlp_bias": True},
    "nemotron_h_latent": listed(MOE, "linear_attention", "moe", "full_attention", "moe", "mlp")
    | {"moe_latent_size": 32, "mlp_bias": True},
}

UNKNOWN_TO_TRANSFORMERS = {"nemotron_h_limit"}  # it clips with time_step_min, and its attention has no biases
FLOAT32 = ("e_score_correction_bias", "A_log", "D", "dt_bias")  # kept so whatever the model's type is


def letters(config: dict) -> str:
    names = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}
    kinds = config.get("layers_block_type")
    return config["hybrid_override_pattern"] if kinds is None else "".join(names[kind] for kind in kinds)


def mamba(config):
    d, heads, width = (
        config["hidden_size"],
        config["mamba_num_heads"],
        config["mamba_num_heads"] * config["mamba_head_dim"],
    )
    conv = width + 2 * config["n_groups"] * config["ssm_state_size"]
    found = {"in_proj.weight": (width + conv + heads, d), "out_proj.weight": (d, width), "norm.weight": (width,),
             "conv1d.weight": (conv, 1, config["conv_kernel"]), "A_log": (heads,), "D": (heads,),
             "dt_bias": (heads,)}  # fmt: skip
    bias = {"conv1d.bias": (conv,)} if config["use_conv_bias"] else {}
    return found | bias | (biases(found, "in_proj", "out_proj") if config["use_bias"] else {})


def attention(config):
    d, h = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
    found = {"q_proj.weight": (q, d), "k_proj.weight": (kv, d), "v_proj.weight": (kv, d), "o_proj.weight": (d, q)}
    return found | (biases(found, "q_proj", "k_proj", "v_proj", "o_proj") if config["attention_bias"] else {})


def mlp(config, width=None):
    d, f = config["hidden_size"], width or config["intermediate_size"]
    found = {"up_proj.weight": (f, d), "down_proj.weight": (d, f)}
    return found | (biases(found, "up_proj", "down_proj") if config["mlp_bias"] else {})


def moe(config):
    d, f, count, latent = (config.get(key) for key in (
        "hidden_size", "moe_intermediate_size", "n_routed_experts", "moe_latent_size"))  # fmt: skip
    found = {"gate.weight": (count, d), "gate.e_score_correction_bias": (count,)}
    shared = mlp(config, config["moe_shared_expert_intermediate_size"])
    found |= {f"shared_experts.{name}": shape for name, shape in shared.items()}
    for e in range(count):
        found[f"experts.{e}.up_proj.weight"] = (f, latent or d)
        found[f"experts.{e}.down_proj.weight"] = (latent or d, f)
    if latent:
        ends = {"fc1_latent_proj.weight": (latent, d), "fc2_latent_proj.weight": (d, latent)}
        found |= ends | (biases(ends, "fc1_latent_proj", "fc2_latent_proj") if config["mlp_bias"] else {})
    return found


def biases(shapes: dict, *names: str) -> dict:
    return {f"{name}.bias": shapes[f"{name}.weight"][:1] for name in names}


SHAPES = {"M": mamba, "*": attention, "-": mlp, "E": moe}


def random_of(config: dict) -> dict[str, mx.array]:
    """Everything by Hugging Face's names and layouts."""
    v, d = config["vocab_size"], config["hidden_size"]
    shapes = {"backbone.embeddings.weight": (v, d), "backbone.norm_f.weight": (d,), "lm_head.weight": (v, d)}
    for i, letter in enumerate(letters(config)):
        shapes[f"backbone.layers.{i}.norm.weight"] = (d,)
        layer = SHAPES[letter](config)
        shapes |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in layer.items()}
    return {name: drawn(name, shape, i) for i, (name, shape) in enumerate(sorted(shapes.items()))}


def drawn(name, shape, seed):
    noise = mx.random.normal(shape, key=mx.random.key(seed))
    if name.endswith(("norm.weight", "norm_f.weight", ".D")):
        return 1.0 + 0.2 * noise
    if name.endswith(("A_log", "dt_bias")):
        return noise if "A_log" in name else noise - 1
    if name.endswith("bias"):
        return 0.2 * noise
    return noise * (1.0 if "embed" in name else shape[-1] ** -0.5)


def as_mlx(tensors: dict, config: dict) -> dict[str, mx.array]:
    """Layouts and names of mlx-lm: convolutions transposed, experts stacked."""
    found = {n: a.swapaxes(1, 2) if n.endswith("conv1d.weight") else a for n, a in tensors.items()}
    for i, letter in enumerate(letters(config)):
        for old, new in (("up_proj", "fc1"), ("down_proj", "fc2")) if letter == "E" else ():
            layer = f"backbone.layers.{i}.mixer"
            stack = [found.pop(f"{layer}.experts.{e}.{old}.weight") for e in range(config["n_routed_experts"])]
            found[f"{layer}.switch_mlp.{new}.weight"] = mx.stack(stack)
    return found


def make(folder, kind: str, *, dtype=None, quantization=None, overrides=None, mlx=False, rename=None, **changes):
    """Write the checkpoint of a kind, with changes to its config, and return its folder. mlx: in MLX's layout."""
    config = CONFIGS[kind] | changes
    tensors = random_of(config)
    tensors = {n: a if dtype is None or n.endswith(FLOAT32) else a.astype(dtype) for n, a in tensors.items()}
    tensors = as_mlx(tensors, config) if mlx or quantization else tensors
    if quantization:  # mlx-lm's router is a plain matrix
        plain = {n.removesuffix(".weight"): False for n in tensors if n.endswith("gate.weight")}
        tensors = packed(tensors, quantization, plain | (overrides or {}))
        config["quantization"] = {**quantization, **(overrides or {})}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_shards(folder, {rename(n) if rename else n: a for n, a in tensors.items()}, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
