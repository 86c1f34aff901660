"""Affine quantisation as MLX does it (4 bits, groups of 64 along the input), for training through it and for export."""

import json

import torch
from safetensors.torch import save_file

BITS, GROUP = 4, 64
EPS = 1e-7


def _grid(w):
    """(codes, scales, biases) of w (..., groups, GROUP). Scales and biases are rounded to bf16 first, as they are shipped."""
    top = 2**BITS - 1
    high, low = w.amax(-1, keepdim=True), w.amin(-1, keepdim=True)
    from_low = low.abs() > high.abs()
    scale = ((high - low) / top).clamp_min(EPS)
    scale = torch.where(from_low, scale, -scale)
    edge = torch.where(from_low, low, high)
    steps = (edge / scale).round()
    scale = torch.where(steps != 0, edge / steps, scale).bfloat16().float()
    bias = torch.where(steps != 0, edge, torch.zeros_like(edge)).bfloat16().float()
    return ((w - bias) / scale).round().clamp(0, top), scale, bias


def quantised(w):
    """The values that 4 bits can hold nearest to w, in float32."""
    codes, scale, bias = _grid(w.float().unflatten(-1, (-1, GROUP)))
    return (codes * scale + bias).flatten(-2)


def pack(w):
    """(weight uint32 words as int32, scales bf16, biases bf16) in the layout of mx.quantize: low nibble first."""
    codes, scale, bias = _grid(w.float().unflatten(-1, (-1, GROUP)))
    nibbles = codes.flatten(-2).to(torch.int64).unflatten(-1, (-1, 32 // BITS))
    words = (nibbles << (torch.arange(32 // BITS, device=w.device) * BITS)).sum(-1)
    return words.to(torch.uint32), scale.squeeze(-1).bfloat16(), bias.squeeze(-1).bfloat16()


def export(weights, path):
    """Write named float weights as one MLX safetensors file: matrices quantised, vectors in bf16."""
    out = {}
    for name, w in weights.items():
        if w.ndim == 1:
            out[name] = w.bfloat16().cpu()
            continue
        stem = name.removesuffix(".weight")
        out[name], out[f"{stem}.scales"], out[f"{stem}.biases"] = (t.contiguous().cpu() for t in pack(w))
    save_file(out, str(path), metadata={"format": "mlx"})


def unpack(weights):
    """Named float32 matrices and vectors of a checkpoint that `export` wrote: what MLX computes with."""
    out = {}
    for name, w in weights.items():
        if name.endswith((".scales", ".biases")):
            continue
        stem = name.removesuffix(".weight")
        out[name] = _unpacked(w, weights[f"{stem}.scales"], weights[f"{stem}.biases"]) if f"{stem}.scales" in weights else w.float()
    return out


def _unpacked(words, scales, biases):
    shifts = torch.arange(32 // BITS) * BITS
    codes = ((words.to(torch.int64).unsqueeze(-1) >> shifts) & (2**BITS - 1)).flatten(-2).float()
    return (codes.unflatten(-1, (-1, GROUP)) * scales.float().unsqueeze(-1) + biases.float().unsqueeze(-1)).flatten(-2)


def write_config(config, folder):
    quantization = {"group_size": GROUP, "bits": BITS, "mode": "affine"}
    full = config | {"quantization": quantization, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(full, indent=2) + "\n")
