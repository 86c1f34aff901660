"""What a folder holds: is the checkpoint whole, its architecture, how its weights are stored, whether Smelt runs it."""

import json
import re
import struct
from pathlib import Path

from . import DRAFTERS

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
FOREIGN = {"gptq", "awq", "bitsandbytes", "fp8"}
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "BF16": "bf16", "F16": "fp16", "F32": "fp32"}


class SourceError(Exception):
    """No usable checkpoint: the message says what was given, where it was looked for, and what to do."""


def read_json(path: Path) -> dict:
    """The object in a JSON file; {} where it is absent or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def filled(path: Path) -> bool:
    """A file with content. A Git LFS pointer (a clone without git-lfs) stands for a file that is not there."""
    try:
        size = path.stat().st_size
        if size >= 1024:
            return True
        return size > 0 and not path.read_bytes().startswith(b"version https://git-lfs")
    except OSError:
        return False


def missing(folder: Path) -> list[str]:
    """What a checkpoint lacks before it can be loaded, by file name; empty when it is ready."""
    lacks = [] if read_json(folder / "config.json") else ["config.json"]
    if not any(filled(folder / name) for name in TOKENIZERS):
        lacks.append(" or ".join(TOKENIZERS))
    return lacks + missing_weights(folder)


def missing_weights(folder: Path) -> list[str]:
    if (folder / INDEX).exists():
        shards = indexed_shards(folder / INDEX)
        return [name for name in shards if not filled(folder / name)] if shards else [INDEX]
    return [name for name in numbered_shards(folder) if not filled(folder / name)]


def indexed_shards(index: Path) -> list[str]:
    shards = read_json(index).get("weight_map")
    return sorted(set(shards.values())) if isinstance(shards, dict) else []


def numbered_shards(folder: Path) -> list[str]:
    """Without an index: the weights that are there, and those that a name such as ..-00001-of-00003 tells of."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    for name in names:
        if match := NUMBERED.fullmatch(name):
            stem, digits, count = match.groups()
            return [f"{stem}-{n:0{len(digits)}}-of-{count}.safetensors" for n in range(1, int(count) + 1)]
    return names or ["model.safetensors"]


def text_config(config: dict) -> dict:
    """The language model's part of a multimodal config; the config itself where it is not one."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) and inner.get("model_type") else config


def architecture(config: dict) -> str | None:
    return text_config(config).get("model_type")


def supported_types() -> list[str]:
    from . import FAMILIES  # here, so that looking for models imports none

    return sorted(FAMILIES)


def refusal(config: dict) -> str | None:
    """Why Smelt does not run a checkpoint with this config.json; None when it does."""
    if config.get("model_type") in DRAFTERS:
        return "it is a drafter: serve the model that it drafts for, with --drafter"
    types = supported_types()
    if not {config.get("model_type"), architecture(config)} & set(types):
        return f"model_type {architecture(config)!r} is not supported; supported are {', '.join(types)}"
    scheme = config.get("quantization") or config.get("quantization_config") or {}
    method = scheme.get("quant_method")
    if method in FOREIGN or method and not {"bits", "group_size"} & set(scheme):
        return f"weights are quantised with {method}; use an MLX or an unquantised checkpoint"
    return None


def quantisation(config: dict, folder: Path | None = None) -> str | None:
    """How the weights are stored, for people: "4-bit group 64", "mxfp4", "bf16"; None when nothing tells."""
    scheme = config.get("quantization") or config.get("quantization_config")
    if isinstance(scheme, dict):
        return describe_scheme(scheme)
    for part in (config, text_config(config)):
        if dtype := part.get("dtype") or part.get("torch_dtype"):
            return DTYPES.get(dtype, dtype)
    return stored_dtype(folder) if folder else None


def describe_scheme(scheme: dict) -> str:
    mode = scheme.get("mode", "affine")
    if method := scheme.get("quant_method"):
        text = method
    elif mode != "affine":
        text = mode
    else:
        text = f"{scheme.get('bits')}-bit group {scheme.get('group_size')}"
    overrides = [part for part in scheme.values() if isinstance(part, dict) and "bits" in part]
    mixed = any((part["bits"], part.get("mode", mode)) != (scheme.get("bits"), mode) for part in overrides)
    return text + ", mixed" if mixed else text


def stored_dtype(folder: Path) -> str | None:
    """The most common dtype of the first weight file, read from its header alone."""
    for path in sorted(folder.glob("*.safetensors")):
        dtypes = [tensor.get("dtype") for name, tensor in header(path).items() if name != "__metadata__"]
        if dtypes:
            common = max(set(dtypes), key=dtypes.count)
            return DTYPES.get(common, common)
    return None


def header(path: Path) -> dict:
    """The JSON header of a safetensors file; {} for a file that is not one."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return json.loads(file.read(min(length, 100_000_000)))
    except (OSError, ValueError, struct.error):
        return {}


def size(folder: Path) -> int:
    """Bytes of the files in a folder. The Hugging Face cache links to its blobs: the targets count."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
