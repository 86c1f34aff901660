"""Qwen3 in torch, with the names of the checkpoint; what MLX runs later, for training on packed rows."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 4096
    hidden_size: int = 384
    num_hidden_layers: int = 10
    intermediate_size: int = 1024
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    head_dim: int = 64
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048


def hf_config(shape, ids):
    """config.json, but for the quantisation. `ids`: token -> id."""
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "rms_norm_eps": EPS, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "initializer_range": 0.02, "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], **asdict(shape),
    }  # fmt: skip


def rope_table(shape, positions):
    """(cos, sin), each positions.shape + (head_dim,), for the rotate-half form."""
    inverse = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2, device=positions.device, dtype=torch.float32) / shape.head_dim)
    angles = positions.float()[..., None] * inverse
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), EPS).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, hd = shape.hidden_size, shape.head_dim
        self.q_proj = nn.Linear(d, shape.num_attention_heads * hd, bias=False)
        self.k_proj = nn.Linear(d, shape.num_key_value_heads * hd, bias=False)
        self.v_proj = nn.Linear(d, shape.num_key_value_heads * hd, bias=False)
        self.o_proj = nn.Linear(shape.num_attention_heads * hd, d, bias=False)
        self.q_norm, self.k_norm = RMSNorm(hd), RMSNorm(hd)
        self.head_dim = hd

    def qkv(self, x, cos, sin):
        """Heads first: q (B, H, T, d), k and v (B, KV, T, d)."""
        heads = [proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        return rotate(self.q_norm(heads[0]), cos, sin), rotate(self.k_norm(heads[1]), cos, sin), heads[2]


class MLP(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, f = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(shape.hidden_size), RMSNorm(shape.hidden_size)

    def forward(self, x, cos, sin, attend):
        q, k, v = self.self_attn.qkv(self.input_layernorm(x), cos, sin)
        x = x + self.self_attn.o_proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size)


class Qwen3(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.apply(self._start)

    def _start(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)

    def scale_residuals(self):
        """The two projections that write to the residual stream start smaller, by the depth."""
        with torch.no_grad():
            for layer in self.model.layers:
                for proj in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    proj.weight.mul_((2 * self.shape.num_hidden_layers) ** -0.5)

    def hidden(self, ids, positions, layer_of):
        """Final hidden states of ids (B, T) at `positions` (B, T); `layer_of(i, block, x, cos, sin)` runs one block."""
        x = self.model.embed_tokens(ids)
        cos, sin = (table.unsqueeze(1) for table in rope_table(self.shape, positions))
        for i, block in enumerate(self.model.layers):
            x = layer_of(i, block, x, cos, sin)
        return self.model.norm(x)

    def logits(self, h):
        return F.linear(h, self.model.embed_tokens.weight)
