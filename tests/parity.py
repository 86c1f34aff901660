"""What the tests of all model families share: logits and greedy tokens, ours and mlx-lm's, from the same folder."""

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from smelt.kernels.router import Routed
from smelt.models.paging import REWIND

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(40)]
NEW_TOKENS = 32
QUANTIZATIONS = [
    *({"group_size": 32, "bits": bits, "mode": "affine"} for bits in (2, 3, 4, 5, 6, 8)),
    {"group_size": 64, "bits": 4, "mode": "affine"},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
]


def ours_logits(model, tokens, sizes=()):
    """Logits of the last position after feeding `tokens` in chunks, and the memory to go on with."""
    memory, start = model.memory(), 0
    row = memory.open()
    for size in (*sizes, len(tokens) - sum(sizes)):
        chunk = mx.array([tokens[start : start + size]])
        hidden = model(chunk, memory.step([row], size))
        mx.eval(hidden)
        start += size
    return model.logits(hidden[:, -1])[0], memory, row


def ours_greedy(model, tokens, count):
    logits, memory, row = ours_logits(model, tokens)
    found = [int(mx.argmax(logits))]
    while len(found) < count:
        hidden = model(mx.array([found[-1:]]), memory.step([row], 1))
        found.append(int(mx.argmax(model.logits(hidden[:, -1])[0])))
    return found


def reference(folder, tokens, count):
    model, _ = load_model(folder)
    cache = make_prompt_cache(model)
    first = model(mx.array([tokens]), cache=cache)[0, -1]
    found, logits = [int(mx.argmax(first))], first
    while len(found) < count:
        logits = model(mx.array([found[-1:]]), cache=cache)[0, -1]
        found.append(int(mx.argmax(logits)))
    return first, found


def close(ours, theirs, tolerance):
    ours, theirs = (np.array(x.astype(mx.float32)) for x in (ours, theirs))
    return np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def feed(model, memory, row, tokens):
    hidden = model(mx.array([tokens]), memory.step([row], len(tokens), keep=1 < len(tokens) <= REWIND + 1))
    return model.logits(hidden[:, -1])[0]


def goes_back(model, back):
    """30 tokens, 9 more of which `back` are rejected, a snapshot, other work in between, restored: as if never drafted."""
    memory, kept = model.memory(), 39 - back
    row = memory.open()
    feed(model, memory, row, PROMPT[:30])
    feed(model, memory, row, PROMPT[30:kept] + [9] * back)
    memory.rewind(row, back)
    taken = memory.snapshot(row)
    feed(model, memory, row, [5, 6, 7])
    memory.close(row)
    other = memory.open()
    feed(model, memory, other, PROMPT[::-1])
    again = memory.restore(taken)
    assert again.length == kept
    found = [feed(model, memory, again, PROMPT[kept:39]), feed(model, memory, again, PROMPT[39:])]
    cold = [ours_logits(model, PROMPT[:39])[0], ours_logits(model, PROMPT)[0]]
    assert all(close(a, b, 2e-5) for a, b in zip(found, cold, strict=True))


def rows_stand_alone(model):
    """Three rows of different lengths decode and verify together."""
    memory, lengths = model.memory(), (7, 31, 18)
    rows = [memory.open() for _ in lengths]
    for row, n in zip(rows, lengths, strict=True):
        feed(model, memory, row, PROMPT[:n])
    found = []
    for new in (1, 4):
        tokens = mx.array([PROMPT[row.length : row.length + new] for row in rows])
        hidden = model(tokens, memory.step(rows, new, keep=new > 1))
        found += [(row.length, model.logits(hidden[i, -1:])[0]) for i, row in enumerate(rows)]
    for length, logits in found:  # only now: a model's memories share its pools
        assert close(logits, ours_logits(model, PROMPT[:length])[0], 2e-5)


OPS = ("linear", "qk_norm_rope", "attention", "self_attention", "add_norm", "embed", "short_conv", "mamba2", "gated_group_norm",
       "experts", "route", "gated_delta")  # fmt: skip


def watch_types(monkeypatch, *modules) -> list:
    """A list to which every op that these modules call adds its name and the type of what it gave back."""
    seen = []

    def watching(name, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            first = next(iter(result)) if isinstance(result, (tuple, Routed)) else result
            seen.append((name, first.dtype))
            return result

        return call

    for module in modules:
        for name in OPS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, watching(name, getattr(module, name)))
    return seen
