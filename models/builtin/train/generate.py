"""Batched greedy generation in torch, to evaluate a training run where it ran."""

import json
from dataclasses import fields

import torch
import torch.nn.functional as F

from safetensors.torch import load_file

from . import evaluation, quantise
from .model import Qwen3, Shape, rope_table
from .sample import prompt_text, segments


def load(folder):
    """The shipped checkpoint in torch, float32, with the values that its 4-bit weights stand for."""
    config = json.loads((folder / "config.json").read_text())
    model = Qwen3(Shape(**{f.name: config[f.name] for f in fields(Shape)}))
    model.load_state_dict(quantise.unpack(load_file(str(folder / "model.safetensors"))))
    return model.eval()


class Cache:
    """Keys and values of a left-padded batch, written in place."""

    def __init__(self, model, pads, length):
        shape, weight = model.shape, model.model.norm.weight
        size = (shape.num_hidden_layers, 2, len(pads), shape.num_key_value_heads, length, shape.head_dim)
        self.kv = torch.zeros(size, dtype=weight.dtype, device=weight.device)
        self.pads, self.end = pads, 0
        self.columns = torch.arange(length, device=weight.device)

    def mask(self, new):
        """(B, 1, new, end + new): a row sees what is after its padding and not after itself."""
        rows = self.columns[self.end : self.end + new]
        seen = self.columns[None, None, : self.end + new]
        return ((seen <= rows[None, :, None]) & (seen >= self.pads[:, None, None]) | (seen == rows[None, :, None]))[:, None]


def grouped_attention(q, k, v, mask):
    """Query heads that share keys are laid out as further query positions: no copy of the keys, and a fused kernel takes the mask."""
    groups = q.shape[1] // k.shape[1]
    stacked = q.unflatten(1, (-1, groups)).flatten(2, 3)
    out = F.scaled_dot_product_attention(stacked, k, v, attn_mask=mask.repeat(1, 1, groups, 1))
    return out.unflatten(2, (groups, -1)).flatten(1, 2)


@torch.no_grad()
def step(model, cache, ids):
    """Logits of the last position after reading ids (B, T)."""
    new, end = ids.shape[1], cache.end
    cos, sin = rope_table(model.shape, cache.columns[end : end + new])
    mask, x = cache.mask(new), model.model.embed_tokens(ids)
    for i, block in enumerate(model.model.layers):

        def attend(q, k, v, i=i):
            cache.kv[i, 0, :, :, end : end + new], cache.kv[i, 1, :, :, end : end + new] = k, v
            keys, values = cache.kv[i, :, :, :, : end + new]
            return grouped_attention(q, keys, values, mask)

        x = block(x, cos, sin, attend)
    cache.end += new
    return model.logits(model.model.norm(x[:, -1]))


@torch.no_grad()
def greedy(model, prompts, limits, eos, device):
    """Token lists that follow each prompt, up to and with `eos`, or the prompt's own limit of tokens long."""
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    ends = torch.tensor(limits, device=device)
    cache = Cache(model, pads, longest + max(limits))
    out = torch.zeros(len(prompts), max(limits), dtype=torch.long, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for i in range(max(limits)):
        ids = step(model, cache, ids).argmax(-1, keepdim=True)
        out[:, i] = ids[:, 0]
        done |= (ids[:, 0] == eos) | (ends <= i + 1)
        if i % 16 == 15 and bool(done.all()):
            break
    cut = [row[:limit] for row, limit in zip(out.tolist(), limits, strict=True)]
    return [row[: row.index(eos) + 1] if eos in row else row for row in cut]


@torch.no_grad()
def checked(model, prompts, drafts, device):
    """What greedy decoding would write of each draft: the tokens that agree, then the first that does not. One pass over all."""
    longest = max(len(p) + len(d) for p, d in zip(prompts, drafts, strict=True))
    ids = torch.tensor([p + d + [0] * (longest - len(p) - len(d)) for p, d in zip(prompts, drafts, strict=True)], device=device)
    hidden = model.hidden(ids, torch.arange(longest, device=device).expand_as(ids), _causal)
    out = []
    for row, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True)):
        said = model.logits(hidden[row, len(prompt) - 1 : len(prompt) + len(draft) - 1]).argmax(-1).tolist()
        agreed = next((i for i, (a, b) in enumerate(zip(said, draft, strict=True)) if a != b), len(draft))
        out.append(said[: agreed + 1])
    return out


def _causal(i, block, x, cos, sin):
    return block(x, cos, sin, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))


def _batches(numbers, length_of, size):
    """Lists of `size` numbers with lengths close to each other."""
    ordered = sorted(numbers, key=length_of)
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]


def answers(model, prompts, drafts, limits, eos, device, batch):
    """Greedy answers to all prompts. What agrees with a draft (here the wanted answer, which most answers are) is read in one pass
    and not written token by token; the others go on from where they differ."""
    out = {}
    for part in _batches(range(len(prompts)), lambda i: len(prompts[i]) + len(drafts[i]), batch):
        out |= zip(part, checked(model, [prompts[i] for i in part], [drafts[i] for i in part], device), strict=True)
    unfinished = [i for i in out if out[i][-1] != eos and len(out[i]) < limits[i]]
    for part in _batches(unfinished, lambda i: limits[i] - len(out[i]), batch):
        rest = greedy(model, [prompts[i] + out[i] for i in part], [limits[i] - len(out[i]) for i in part], eos, device)
        out |= {i: out[i] + more for i, more in zip(part, rest, strict=True)}
    return [out[i] for i in range(len(prompts))]


def _case(tokenizer, sample):
    """(prompt, wanted answer, limit) in tokens. The limit leaves room for reasoning where none was wanted."""
    wanted = tokenizer.encode(list(segments(sample))[-2][0], add_special_tokens=False).ids
    prompt = tokenizer.encode(prompt_text(sample.messages[:-1], sample.tools, sample.thinking), add_special_tokens=False).ids
    return prompt, wanted, 256 + 2 * len(wanted)


def evaluate(model, tokenizer, cases, device, batch=192):
    """({row: (n, right, ended)}, [(row, prompt, output, wanted)] of the failures) of `cases`, [(row, sample)]."""
    eos = tokenizer.token_to_id("<|im_end|>")
    prompts, drafts, limits = zip(*(_case(tokenizer, sample) for _, sample in cases), strict=True)
    counts, failures = dict.fromkeys((row for row, _ in cases), (0, 0, 0)), []
    for (row, sample), prompt, ids in zip(cases, prompts, answers(model, prompts, drafts, limits, eos, device, batch), strict=True):
        ended = ids[-1] == eos
        text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
        good = ended and evaluation.right(sample, text)
        counts[row] = tuple(a + b for a, b in zip(counts[row], (1, good, ended), strict=True))
        if not good:
            failures.append((row, tokenizer.decode(prompt, skip_special_tokens=False), text, evaluation.answer_text(sample.messages[-1])))
    return counts, failures
