"""The files of a checkpoint: config.json and safetensors, read by name and accounted for.

A model's constructor takes what it needs from `Tensors`; whatever it asked for in vain and whatever it left over are
named in one error by `close`, so a model either has every weight of its checkpoint or does not load.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..kernels.linear import Weight, Weights, joined, stacked
from ..kernels.norm import Norm

log = logging.getLogger(__name__)

# Where checkpoints nest the language model (Hugging Face before and after 4.52, MLX-community), outermost first.
PREFIXES = (
    ("language_model.model.", "model."),
    ("model.language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.backbone.", "backbone."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.mtp.", "mtp."),
    ("model.lm_head.", "lm_head."),
)
TOWERS = ("vision_tower.", "vision_model.", "vision_embedder.", "visual.", "multi_modal_projector.", "audio_tower.",
          "embed_vision.", "embed_audio.", "mtp.")  # fmt: skip
ROOT_KEYS = ("quantization", "quantization_config", "eos_token_id", "image_token_id", "video_token_id",
             "audio_token_id")  # fmt: skip
FLOATS = (mx.float16, mx.bfloat16, mx.float32)
MODES = {"affine", "mxfp4", "mxfp8", "nvfp4"}
# Where the experts of a layer are (Hugging Face, MLX, Gemma 4 of MLX), and what their matrices are called there.
EXPERTS = ("switch_mlp", "experts", "experts.switch_glu", "switch_glu")
EXPERT_NAMES = {"gate": ("gate_proj", "w1"), "up": ("up_proj", "w3", "fc1"), "down": ("down_proj", "w2", "fc2"),
                "gate_up": ("gate_up_proj",)}  # fmt: skip
AFFINE_BITS, AFFINE_GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)


class CheckpointError(Exception):
    """The checkpoint cannot be loaded; the message says what is wrong with it."""


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(), object_hook=infinite)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json: it is not a checkpoint folder") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}; it must be an object")
    return config


def infinite(value: dict[str, Any]) -> Any:
    """transformers 5 writes an infinite number as {"__float__": "Infinity"}, which all JSON parsers can read."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a (multimodal) config, with what the root says and the part does not."""
    part = config.get("text_config")
    if not isinstance(part, dict):
        return config
    root = {key: config[key] for key in ROOT_KEYS if key in config}
    tied = config.get("tie_word_embeddings")
    return {**root, **part, **({} if tied is None or "tie_word_embeddings" in part else {"tie_word_embeddings": tied})}


def shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {', '.join(missing)}, named by its index: download it again")
        return [folder / name for name in names]
    found = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"{folder} has no *.safetensors file; Smelt reads no other kind of weights")
    return found


def normal_name(name: str) -> str:
    for prefix, short in PREFIXES:
        if name.startswith(prefix):
            return short + name[len(prefix) :]
    return name


def is_tower(name: str) -> bool:
    return name.removeprefix("model.").startswith(TOWERS)


def load_shard(path: Path) -> dict[str, mx.array]:
    try:
        return mx.load(str(path))
    except Exception as error:  # mx.load raises RuntimeError and ValueError with MLX's own words
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def load(folder: Path) -> "Tensors":
    """All tensors of the checkpoint, lazily: nothing is read from the disk before it is evaluated."""
    tensors, towers = {}, {}
    for path in shards(folder):
        for name, array in load_shard(path).items():
            name = normal_name(name)
            (towers if is_tower(name) else tensors)[name] = array
    if towers:
        kinds = ", ".join(sorted({name.removeprefix("model.").split(".")[0] for name in towers}))
        log.info("left out %d tensors of %s: only the language model is used", len(towers), kinds)
    return Tensors(tensors, text_config(read_config(folder)))


def quantization_of(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("quantization") or config.get("quantization_config") or {}
    method = found.get("quant_method")
    if method and "bits" not in found and "group_size" not in found or method in ("gptq", "awq", "bitsandbytes", "fp8"):
        raise CheckpointError(
            f"quantisation method {method!r} is not supported: use an MLX checkpoint (affine, mxfp4, mxfp8, nvfp4) or"
            " an unquantised one"
        )
    return {normal_name(key + ".").removesuffix("."): value for key, value in found.items()}


class Tensors:
    """Weights by name. Each can be taken once; `close` says what was missing and what was left."""

    def __init__(self, tensors: dict[str, mx.array], config: dict[str, Any]):
        self.left = dict(tensors)
        self.missing: list[str] = []
        self.quantization = quantization_of(config)
        self.dtype = self._dtype()

    def _dtype(self) -> mx.Dtype:
        """The model's working type: that of its floating tensors, by the most elements."""
        sizes = {}
        for name, array in self.left.items():
            if array.dtype in FLOATS:
                sizes[array.dtype] = sizes.get(array.dtype, 0) + array.size
        return max(sizes, key=sizes.get, default=mx.float32)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str) -> mx.array:
        if name not in self.left:
            self.missing.append(name)
            return mx.zeros((1, 1))
        array = self.left.pop(name)
        return array.astype(self.dtype) if array.dtype in FLOATS else array

    def take_float32(self, name: str) -> mx.array:
        """What a recurrence or a router computes in float32 whatever the model's type is, and its file may keep so."""
        if name not in self.left:
            return self.take(name)
        return self.left.pop(name).astype(mx.float32)

    def conv(self, name: str) -> mx.array:
        """A depthwise convolution's weight as [C, K]: stored [C, 1, K] (Hugging Face) or [C, K, 1] (MLX)."""
        weight = self.take(f"{name}.weight")
        return weight if weight.ndim == 2 else weight.squeeze(1 if weight.shape[1] == 1 else 2)

    def drop(self, names: Iterator[str] | list[str]) -> None:
        for name in list(names):
            self.left.pop(name, None)

    def norm(self, name: str, eps: float, offset: float = 0.0) -> Norm:
        weight = self.take(f"{name}.weight")
        return Norm(weight + offset if offset else weight, eps)

    def linear(self, name: str) -> Weight:
        weight = self.take(f"{name}.weight")
        bias = self.take(f"{name}.bias") if f"{name}.bias" in self else None
        if f"{name}.scales" not in self:
            return self._plain(name, weight, bias)
        group_size, bits, mode = self._packing(name, weight)
        scales = self.take(f"{name}.scales")
        biases = self._biases(name, scales) if mode == "affine" else None
        return Weight.quantized(weight, scales, biases, bias=bias, group_size=group_size, bits=bits, mode=mode)

    def joined(self, *names: str) -> Weights:
        return joined([self.linear(name) for name in names])

    def experts(self, name: str, *parts: str, count: int) -> Weights:
        """The matrices of all `count` experts under `name` as stacks [E, O, D]: parts "gate", "up", "down", joined.

        They may be stored as stacks, with gate and up as one stack, or as a matrix for each expert.
        """
        if parts == ("gate", "up") and (both := self._stack(name, "gate_up", count)):
            return both
        found = [self._stack(name, part, count) for part in parts]
        self.missing += [f"{name}.experts.*.{EXPERT_NAMES[part][0]}" for part, w in zip(parts, found) if w is None]
        return joined([w or Weight(mx.zeros((1, 1, 1))) for w in found], axis=1)

    def _stack(self, name: str, part: str, count: int) -> Weight | None:
        for folder in (f"{name}.{experts}" for experts in EXPERTS):
            for own in EXPERT_NAMES[part]:
                if f"{folder}.{own}.weight" in self:
                    return self.linear(f"{folder}.{own}")
                if f"{folder}.{own}" in self:
                    bias = self.take(f"{folder}.{own}_bias") if f"{folder}.{own}_bias" in self else None
                    return self._plain(f"{folder}.{own}", self.take(f"{folder}.{own}"), bias)
                if f"{folder}.0.{own}.weight" in self:
                    return self._stacked([f"{folder}.{e}.{own}" for e in range(count)])
        return None

    def _stacked(self, names: list[str]) -> Weight:
        matrices = [self.linear(name) for name in names]
        return matrices[0] if any(f"{name}.weight" in self.missing for name in names) else stacked(matrices)

    def _plain(self, name, weight, bias):
        if weight.dtype not in FLOATS:
            raise CheckpointError(f"{name}.weight is {weight.dtype} and has no {name}.scales to unpack it with")
        return Weight(weight, bias=bias)

    def _biases(self, name: str, scales: mx.array) -> mx.array:
        if f"{name}.biases" not in self:
            self.missing.append(f"{name}.biases")
            return scales  # so that the shapes agree until `close` says what is missing
        biases = self.take(f"{name}.biases")
        if biases.shape != scales.shape:
            raise CheckpointError(
                f"{name}.biases has the shape {biases.shape}, {name}.scales {scales.shape}: each scale needs one bias"
            )
        return biases

    def _packing(self, name: str, weight: mx.array) -> tuple[int, int, str]:
        """(group_size, bits, mode) of one packed matrix: its own entry in the config, else the common one."""
        own = self.quantization.get(name)
        spec = own if isinstance(own, dict) else self.quantization
        mode = spec.get("mode", "affine")
        if mode not in MODES:
            raise CheckpointError(f"{name}: quantisation mode {mode!r} is unknown; known are {', '.join(sorted(MODES))}")
        groups = self.left[f"{name}.scales"].shape[-1]
        group_size = spec.get("group_size") or {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}.get(mode, 64)
        bits = weight.shape[-1] * 32 // (groups * group_size)
        if mode == "affine" and (bits not in AFFINE_BITS or group_size not in AFFINE_GROUPS):
            raise CheckpointError(
                f"{name}: affine quantisation of {bits} bits in groups of {group_size} is not supported; bits can be"
                f" {AFFINE_BITS}, groups {AFFINE_GROUPS}"
            )
        return group_size, bits, mode

    def close(self) -> None:
        """Raise CheckpointError unless every tensor was used and every one asked for was there."""
        left = [name for name in self.left if not name.endswith("rotary_emb.inv_freq")]
        if not self.missing and not left:
            return
        raise CheckpointError(
            "the checkpoint does not match its architecture:"
            f" {listing('missing', self.missing)}; {listing('left over', left)}"
        )


def listing(what: str, names: list[str], most: int = 12) -> str:
    shown = ", ".join(sorted(names)[:most]) or "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {shown}{more}"
