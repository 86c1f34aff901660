"""Small random checkpoints, one of every kind of architecture that the tests go through."""

import json

from smelt.bench import checkpoints

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

UNKNOWN_TO_TRANSFORMERS = {"llama_sliding"}  # its Llama has no sliding layers


def make(folder, kind: str, *, dtype=None, quantization=None, overrides=None, prefix="", shard_count=1, **changes):
    """Write the checkpoint of a kind, with changes to its config, and return its folder."""
    dtype = {} if dtype is None else {"dtype": dtype}
    return checkpoints.write(
        folder, CONFIGS[kind] | changes, quantization=quantization, overrides=overrides, prefix=prefix,
        shard_count=shard_count, **dtype,
    )  # fmt: skip


def random_of(kind: str) -> dict:
    return checkpoints.random_tensors({"head_dim": None, **CONFIGS[kind]})


def wrapped(folder, kind: str, tensors: dict):
    """A multimodal checkpoint: the config under text_config, the tensors by the names given."""
    folder.mkdir()
    checkpoints.write_shards(folder, tensors, 1)
    config = {"model_type": "gemma3", "text_config": CONFIGS[kind], "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
