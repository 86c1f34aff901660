"""How many kernels a step dispatches, counted in the graph that is about to be evaluated.

The graph between what is already computed and what a step evaluates is written by mx.export_to_dot, and every
primitive in it counts one, but for those that only name memory anew (VIEWS). A custom kernel is one primitive, a block
fused by mx.compile is one, and so is a fast op such as RMSNorm on a GPU; on the CPU, where MLX has no such fast ops,
each op that they are made of counts. Copies that MLX makes inside a primitive (to make an input contiguous, to keep an
input that others hold) are not in the graph and not counted, for either engine.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

import mlx.core as mx

VIEWS = frozenset(
    "AsStrided Broadcast BroadcastAxes Depends ExpandDims Flatten Reshape Slice Split Squeeze StopGradient Transpose"
    " Unflatten View".split()
)
NODE = re.compile(r'^\{ \d+ \[label ="(\w+)"', re.M)


def primitives(arrays: list[mx.array]) -> Counter:
    """Every primitive that evaluating the arrays runs, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *arrays)
        return Counter(NODE.findall(path.read_text()))


def dispatches(arrays: list[mx.array]) -> Counter:
    return Counter({name: count for name, count in primitives(arrays).items() if name not in VIEWS})
