"""Random checkpoints that are packed from the start: any shape in seconds, whatever its size.

Nothing is quantised: the packed words are random bits, and the scales are such that a matrix keeps the size of what it
multiplies. The tensors of a kind are windows, at random places, of one random block in the file, so a 30B mixture is
a file of a few hundred megabytes which both engines read as 17 GB of weights that differ. MLX's reader allows that
tensors share bytes; readers that check for it (the `safetensors` package) refuse such a file.
"""

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from .checkpoints import shapes

SLACK = 1 << 20  # bytes of a block beyond its longest tensor: where windows can begin
ALIGN = 256
NAMES = {mx.float16: "F16", mx.bfloat16: "BF16", mx.float32: "F32"}
ROUTER_BITS = 8  # as published checkpoints of mixtures have them
EMBEDDING = 0.25  # of a layer's size: a tied model would otherwise repeat its input


@dataclass
class Block:
    """Bytes that several tensors are windows of."""

    data: np.ndarray
    begin: int = 0  # in the file


@dataclass
class Blocks:
    """The blocks of a checkpoint by what is in them; made when the first tensor asks, longest first."""

    dtype: mx.Dtype
    rng: np.random.Generator
    found: dict[tuple, Block] = field(default_factory=dict)

    def words(self, size: int) -> Block:
        return self.get(("words",), lambda: np.frombuffer(self.rng.bytes(size + SLACK), np.uint8))

    def scales(self, size: int, scale: float) -> Block:
        """`size` bytes and more of scales around `scale`."""
        return self.get(("scales", scale), lambda: self.floats(scale * self.rng.uniform(0.5, 1.5, self.count(size))))

    def biases(self, scale: float, middle: float) -> Block:
        """What makes codes symmetric: the scales times minus the middle code, place by place."""
        scales = mx.array(self.found[("scales", scale)].data).view(self.dtype).astype(mx.float32)
        return self.get(("biases", scale), lambda: self.floats(-middle * np.array(scales)))

    def norms(self, size: int, neutral: float) -> Block:
        return self.get(("norms",), lambda: self.floats(neutral + 0.2 * self.rng.standard_normal(self.count(size))))

    def get(self, key: tuple, make) -> Block:
        if key not in self.found:
            self.found[key] = Block(make())
        return self.found[key]

    def count(self, size: int) -> int:
        return (size + SLACK) // self.dtype.size

    def floats(self, values: np.ndarray) -> np.ndarray:
        return np.array(mx.array(values.astype(np.float32)).astype(self.dtype).view(mx.uint8))


def write(folder: Path, config: dict, *, bits: int = 4, group: int = 64, dtype: mx.Dtype = mx.bfloat16,
          seed: int = 0) -> Path:  # fmt: skip
    """Write config.json and model.safetensors, affine of `bits` in groups of `group`; routers have 8 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks, windows = Blocks(dtype, np.random.default_rng(seed)), {}
    whole = shapes(config)
    for name, shape in sorted(whole.items(), key=lambda item: -math.prod(item[1])):
        windows |= tensors_of(blocks, name, shape, config, bits, group)
    write_file(folder / "model.safetensors", list(blocks.found.values()), windows)
    quantization = {"group_size": group, "bits": bits, "mode": "affine"}
    routers = [name.removesuffix(".weight") for name in whole if name.endswith("mlp.gate.weight")]
    own = dict.fromkeys(routers, {"group_size": group, "bits": ROUTER_BITS, "mode": "affine"})
    (folder / "config.json").write_text(json.dumps({**config, "quantization": {**quantization, **own}}))
    return folder


def weight_bytes(config: dict, bits: int = 4, group: int = 64) -> int:
    """Of a packed checkpoint once it is read, with 16-bit scales."""
    elements = sum(math.prod(shape) for shape in shapes(config).values() if len(shape) > 1)
    return round(elements * (bits + 32 / group) / 8)


def tensors_of(blocks: Blocks, name: str, shape: tuple[int, ...], config: dict, bits: int, group: int) -> dict:
    """{tensor's name: (safetensors type, shape, block, offset in it)} of one matrix or norm."""
    kind, size = NAMES[blocks.dtype], blocks.dtype.size
    if len(shape) == 1:
        neutral = 0.0 if config["model_type"] == "gemma3_text" else 1.0
        return {name: (kind, shape, *window(blocks, blocks.norms(shape[0] * size, neutral), shape[0] * size))}
    module, width = name.removesuffix(".weight"), shape[-1]
    if module.endswith("mlp.gate"):
        bits = ROUTER_BITS
    if width % group:
        raise ValueError(f"{name} has rows of {width}, which are no whole groups of {group}")
    packed, grouped = (*shape[:-1], width * bits // 32), (*shape[:-1], width // group)
    middle = (2**bits - 1) / 2
    scale = (EMBEDDING if "embed" in name else 1.0) / (math.sqrt((4**bits - 1) / 12) * math.sqrt(width))
    length, words = math.prod(grouped) * size, 4 * math.prod(packed)
    scales, offset = window(blocks, blocks.scales(length, scale), length)
    return {
        f"{module}.weight": ("U32", packed, *window(blocks, blocks.words(words), words)),
        f"{module}.scales": (kind, grouped, scales, offset),
        f"{module}.biases": (kind, grouped, blocks.biases(scale, middle), offset),
    }


def window(blocks: Blocks, block: Block, size: int) -> tuple[Block, int]:
    """A random place for `size` bytes of the block."""
    assert size <= len(block.data), "a block is made for its longest tensor first"
    return block, ALIGN * int(blocks.rng.integers(0, (len(block.data) - size) // ALIGN + 1))


def write_file(path: Path, blocks: list[Block], windows: dict) -> None:
    end = 0
    for block in blocks:
        block.begin, end = end, end + len(block.data) + -len(block.data) % ALIGN
    header = {"__metadata__": {"format": "mlx"}}
    for name, (kind, shape, block, offset) in windows.items():
        begin = block.begin + offset
        size = math.prod(shape) * {"U32": 4, "F32": 4}.get(kind, 2)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + size]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in blocks:
            file.write(block.data.tobytes() + bytes(-len(block.data) % ALIGN))
