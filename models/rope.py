"""Rotary position in the words of config.json: `rope_theta` with `rope_scaling`, or `rope_parameters`.

    default    period_i = base^(2i/dims)
    linear     positions / factor                                                        Chen et al. 2023
    llama3     long periods times factor, short ones kept, a smooth ramp between         Llama 3.1 report, 2024
    yarn       the same idea by a linear ramp over pair numbers, and magnitude           Peng et al. 2023
    dynamic    base grows with the sequence once it exceeds the trained length           NTK-aware, 2023
    proportional   dims of the head turn, the rest have infinite period                   Gemma 4
"""

import functools
import json
import math
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..kernels.qk_norm_rope import Rope
from .checkpoint import CheckpointError


@dataclass(frozen=True)
class DynamicRope:
    """Rope whose base depends on how long each row is (its `end`)."""

    plain: Rope
    factor: float
    trained: int

    def base(self, end: int) -> float:
        dims = self.plain.dims
        growth = self.factor * max(end, self.trained) / self.trained - (self.factor - 1)
        return self.plain.base * growth ** (dims / (dims - 2))

    def at(self, ends: tuple[int, ...]) -> Rope:
        if max(ends) <= self.trained:
            return self.plain
        return replace(self.plain, periods=mx.stack([periods(self.plain.dims, self.base(end)) for end in ends]))


def periods(dims: int, base: float) -> mx.array:
    return base ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)


def parameters(config: dict[str, Any], kind: str | None = None) -> dict[str, Any]:
    """One dict of rope parameters from either form of config; `kind` picks a layer type's own, where there are such."""
    found = config.get("rope_parameters") or {}
    if kind is not None and isinstance(found.get(kind), dict):
        found = found[kind]
    scaling = config.get("rope_scaling") or {}
    merged = {"rope_theta": config.get("rope_theta", 10000.0), **scaling, **found}
    merged["rope_type"] = merged.get("rope_type") or merged.get("type") or "default"
    return merged


def rope(dims: int, params: dict[str, Any], trained: int, interleaved: bool = False) -> Rope | DynamicRope:
    """dims to rotate; params as `parameters` gives them; trained: max_position_embeddings. Layers that turn alike get the same
    one: then its cosines are computed once for all of them.
    """
    return shared_rope(dims, json.dumps(params, sort_keys=True), trained, interleaved)


@functools.lru_cache(64)
def shared_rope(dims: int, words: str, trained: int, interleaved: bool) -> Rope | DynamicRope:
    params = json.loads(words)
    plain = Rope(dims, float(params["rope_theta"]), interleaved=interleaved)
    kind = params["rope_type"]
    if kind not in KINDS:
        raise CheckpointError(f"rope type {kind!r} is not supported; supported are {', '.join(KINDS)}")
    return KINDS[kind](plain, params, trained)


def linear_rope(plain, params, trained):
    return replace(plain, scale=1 / params["factor"])


def dynamic_rope(plain, params, trained):
    return DynamicRope(plain, params["factor"], params.get("original_max_position_embeddings") or trained)


def llama3_rope(plain, params, trained):
    factor, low, high = params["factor"], params.get("low_freq_factor", 1.0), params.get("high_freq_factor", 4.0)
    old = params.get("original_max_position_embeddings", 8192)
    period = periods(plain.dims, plain.base)
    wavelength = 2 * math.pi * period
    smooth = (old / wavelength - low) / (high - low)
    ramp = period / ((1 - smooth) / factor + smooth)
    short, long = wavelength < old / high, wavelength > old / low
    return replace(plain, periods=mx.where(short, period, mx.where(long, period * factor, ramp)))


def proportional_rope(plain, params, trained):
    turned = 2 * int(params.get("partial_rotary_factor", 1.0) * plain.dims // 2)
    found = plain.base ** (mx.arange(0, turned, 2, dtype=mx.float32) / plain.dims) * params.get("factor", 1.0)
    return replace(plain, periods=mx.concatenate([found, mx.full(((plain.dims - turned) // 2,), mx.inf)]))


def yarn_rope(plain, params, trained):
    factor, old = params["factor"], params.get("original_max_position_embeddings") or trained
    low, high = yarn_range(plain, params, old)
    ramp = mx.clip((mx.arange(plain.dims // 2, dtype=mx.float32) - low) / max(high - low, 0.001), 0, 1)
    period = periods(plain.dims, plain.base)
    blended = 1 / ((1 - ramp) / period + ramp / (period * factor))
    return replace(plain, periods=blended, magnitude=yarn_magnitude(params, factor))


def yarn_range(plain, params, old):
    """The pairs between which the ramp runs: those that turn beta_fast and beta_slow times over the trained length."""

    def pair(turns):
        return plain.dims * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(plain.base))

    low, high = pair(params.get("beta_fast") or 32), pair(params.get("beta_slow") or 1)
    if params.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, plain.dims - 1)


def yarn_magnitude(params, factor):
    def mscale(weight):
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if params.get("attention_factor") is not None:
        return params["attention_factor"]
    if params.get("mscale") and params.get("mscale_all_dim"):
        return mscale(params["mscale"]) / mscale(params["mscale_all_dim"])
    return mscale(1.0)


KINDS = {
    "default": lambda plain, params, trained: plain,
    "linear": linear_rope,
    "llama3": llama3_rope,
    "yarn": yarn_rope,
    "dynamic": dynamic_rope,
    "proportional": proportional_rope,
}


def context(config: dict[str, Any], params: dict[str, Any]) -> int:
    """Positions the model was made for, extensions by scaling counted."""
    trained = config.get("max_position_embeddings") or 8192
    if params["rope_type"] == "dynamic":
        return int((params.get("original_max_position_embeddings") or trained) * params["factor"])
    if params["rope_type"] == "yarn":
        return max(trained, int((params.get("original_max_position_embeddings") or trained) * params["factor"]))
    return trained
