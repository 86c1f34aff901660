"""From logits to a token, all of it in the graph: nothing here waits for the device.

For each row, in this order:

    penalise   l_i /= r where l_i > 0, else l_i *= r, for i seen recently (Keskar et al. 2019); l_i -= presence [i in
               completion] + frequency count_i; l_i += bias_i
    scale      l / temperature; a temperature of 0 takes the argmax instead
    truncate   keep the top_k largest; of these the smallest set whose probability reaches top_p (Holtzman et al. 2019);
               of these the ones with at least min_p of the largest probability (Nguyen et al. 2024)
    draw       the first token at which the cumulative probability exceeds u, u = uniform(seed, position)

Every truncation is a threshold on the logit, so equal logits are kept or dropped together, and a row's result depends
on nothing but its own logits, parameters, seed and position.
"""

from dataclasses import dataclass

import mlx.core as mx

BELOW_ONE = 1 - 2**-23  # keeps u * total under the last cumulative sum in float32


@dataclass(frozen=True)
class Plan:
    """What the rows of a batch need, known on the host: steps that no row asks for are left out of the graph.

    draw      some temperature is above 0
    top_k     the largest top_k of any row; 0 if none has one
    full_sort some row asks for top_p without top_k
    nucleus, min_p, penalties, bias   whether any row asks for these
    logprobs  alternatives to report, None for no logprobs at all
    """

    draw: bool = False
    top_k: int = 0
    full_sort: bool = False
    nucleus: bool = False
    min_p: bool = False
    penalties: bool = False
    bias: bool = False
    logprobs: int | None = None


@dataclass
class Parameters:
    """Of B rows: all [B] float32, but top_k [B] int32, seed [B, 2] uint32, bias [B, V] or None."""

    temperature: mx.array
    top_k: mx.array
    top_p: mx.array
    min_p: mx.array
    repetition: mx.array
    presence: mx.array
    frequency: mx.array
    seed: mx.array
    bias: mx.array | None = None


@dataclass
class History:
    """What penalties look at: counts [B, V] of completion tokens; recent [B, W] the last tokens, newest last, `V` where
    there is none or the row's own window is shorter than W; window [B] int32."""

    counts: mx.array
    recent: mx.array
    window: mx.array

    def after(self, tokens: mx.array) -> "History":
        rows = mx.arange(len(tokens))
        return History(
            self.counts.at[rows, tokens].add(1),
            mx.concatenate([self.recent[:, 1:], tokens[:, None].astype(mx.int32)], axis=1),
            self.window,
        )


def sample(logits: mx.array, parameters: Parameters, position: mx.array, plan: Plan, history: History | None = None):
    """logits [B, V], position [B] of the token to be drawn -> tokens [B] uint32."""
    logits = logits.astype(mx.float32)
    if plan.penalties:
        logits = penalise(logits, parameters, history)
    if plan.bias:
        logits = logits + parameters.bias
    greedy = mx.argmax(logits, axis=-1)
    if not plan.draw:
        return greedy
    hot = parameters.temperature > 0
    scaled = logits / mx.where(hot, parameters.temperature, 1)[:, None]
    drawn = draw(truncate(scaled, parameters, plan), uniform(parameters.seed, position))
    return mx.where(hot, drawn, greedy)


def penalise(logits: mx.array, p: Parameters, history: History) -> mx.array:
    rows, vocab = logits.shape
    width = history.recent.shape[1]
    inside = mx.arange(width)[None] >= width - history.window[:, None]
    ids = mx.where(inside, history.recent, vocab)
    seen = mx.put_along_axis(mx.zeros((rows, vocab + 1), mx.bool_), ids, mx.array(True), axis=1)[:, :vocab]
    r = p.repetition[:, None]
    logits = mx.where(seen, mx.where(logits > 0, logits / r, logits * r), logits)
    counts = history.counts.astype(mx.float32)
    return logits - p.presence[:, None] * (counts > 0) - p.frequency[:, None] * counts


def truncate(scaled: mx.array, p: Parameters, plan: Plan) -> mx.array:
    """Logits below the row's threshold become -inf."""
    limits = []
    if plan.top_k or plan.nucleus:
        limits.append(rank_threshold(scaled, p, plan))
    if plan.min_p:
        limits.append(mx.max(scaled, axis=-1) + mx.log(p.min_p))
    for limit in limits:
        scaled = mx.where(scaled >= limit[:, None], scaled, -mx.inf)
    return scaled


def rank_threshold(scaled: mx.array, p: Parameters, plan: Plan) -> mx.array:
    """The smallest logit that top_k and top_p keep, [B]."""
    vocab = scaled.shape[-1]
    width = vocab if plan.full_sort else min(plan.top_k, vocab)
    best = scaled if width == vocab else mx.topk(scaled, width, axis=-1)
    best = -mx.sort(-best, axis=-1)  # largest first
    wanted = mx.where(p.top_k > 0, mx.minimum(p.top_k, vocab), vocab)[:, None]
    kept = mx.arange(width)[None] < wanted
    if plan.nucleus:
        kept = kept & nucleus(mx.where(kept, best, -mx.inf), p.top_p)
    unlimited = (p.top_k <= 0) & (p.top_p >= 1)
    return mx.where(unlimited, -mx.inf, mx.min(mx.where(kept, best, mx.inf), axis=-1))


def nucleus(best: mx.array, top_p: mx.array) -> mx.array:
    """Sorted logits -> whether the probability before each is still below top_p; the first always is kept."""
    probabilities = mx.softmax(best, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    first = mx.arange(best.shape[-1])[None] == 0
    return first | (before < top_p[:, None]) | (top_p[:, None] >= 1)


def draw(masked: mx.array, u: mx.array) -> mx.array:
    """Inverse transform: the first index whose cumulative weight exceeds u times the total."""
    weights = mx.exp(masked - mx.max(masked, axis=-1, keepdims=True))
    cumulative = mx.cumsum(weights, axis=-1)
    mark = mx.minimum(u, BELOW_ONE)[:, None] * cumulative[:, -1:]
    return mx.argmax(cumulative > mark, axis=-1)


def uniform(seed: mx.array, position: mx.array) -> mx.array:
    """[B, 2] uint32 and [B] -> [B] float32 in [0, 1), a counter-based generator: two rounds of lowbias32.

    Any (seed, position) gives the same number in any batch. Source of the mixer: C. Wellons, hash-prospector, 2018.
    """
    mixed = lowbias32(lowbias32(position.astype(mx.uint32) + seed[:, 0]) ^ seed[:, 1])
    return (mixed >> 8).astype(mx.float32) * 2**-24


def lowbias32(x: mx.array) -> mx.array:
    x = (x ^ (x >> 16)) * mx.array(0x7FEB352D, mx.uint32)
    x = (x ^ (x >> 15)) * mx.array(0x846CA68B, mx.uint32)
    return x ^ (x >> 16)


def logprobs(logits: mx.array, tokens: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
    """Of the model itself, before penalties and temperature: chosen [B]; the `count` best, ids and values [B, count],
    best first."""
    normal = logits.astype(mx.float32)
    normal = normal - mx.logsumexp(normal, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(normal, tokens[:, None].astype(mx.int32), axis=-1)[:, 0]
    if not count:
        empty = mx.zeros((len(tokens), 0))
        return chosen, empty.astype(mx.uint32), empty
    ids = mx.argpartition(-normal, kth=count - 1, axis=-1)[:, :count]
    values = mx.take_along_axis(normal, ids, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return chosen, mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
