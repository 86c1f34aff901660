"""From logits to a token, all of it in the graph: nothing here waits for the device.

For each row, in this order:

    penalise   l_i /= r where l_i > 0, else l_i *= r, for i seen recently (Keskar et al. 2019); l_i -= presence [i in
               completion] + frequency count_i; l_i += bias_i
    mask       l_i = -inf where the mask's bit i is 0
    scale      l / temperature; a temperature of 0 takes the argmax instead
    truncate   keep the top_k largest; of these the smallest set whose probability reaches top_p (Holtzman et al. 2019);
               of these the ones with at least min_p of the largest probability (Nguyen et al. 2024)
    draw       the first token at which the cumulative probability exceeds u, u = uniform(seed, position)

Every truncation is a threshold on the logit, so equal logits are kept or dropped together, and a row's result depends
on nothing but its own logits, parameters, seed and position.
"""

from dataclasses import dataclass

import mlx.core as mx

from . import launch, sample_kernel

BELOW_ONE = 1 - 2**-23  # keeps u * total under the last cumulative sum in float32


@dataclass(frozen=True)
class Plan:
    """What the rows of a batch need, known on the host: steps that no row asks for are left out of the graph.

    draw      some temperature is above 0
    top_k     the largest top_k of any row; 0 if none has one
    full_sort some row asks for top_p without top_k
    nucleus, min_p, penalties, bias, mask   whether any row asks for these
    logprobs  alternatives to report, None for no logprobs at all
    """

    draw: bool = False
    top_k: int = 0
    full_sort: bool = False
    nucleus: bool = False
    min_p: bool = False
    penalties: bool = False
    bias: bool = False
    mask: bool = False
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
    """What penalties look at, of B rows.

    table    [B (2 V + W)] int32, a row after another: how often each token is in the completion [V], how often among the
             last `window` tokens [V], and the last tokens themselves [W], each at its position modulo W
    window   [B] int32, at most W
    """

    table: mx.array
    window: mx.array

    @property
    def rows(self) -> mx.array:
        return self.table.reshape(len(self.window), -1)

    def after(self, tokens: mx.array, position: mx.array, vocab: int, drawn: mx.array | None = None) -> "History":
        """With `tokens` at `position` [B] of the rows, or of those rows alone where `drawn` [B] is true."""
        rows, position, tokens = self.rows, position.astype(mx.int32), tokens.astype(mx.int32)
        recent = rows[:, 2 * vocab :]
        places = mx.stack([position, position - self.window], axis=1) % recent.shape[1]
        replaced, oldest = mx.take_along_axis(recent, places, axis=1).T
        leaves = position >= self.window
        index = [tokens, vocab + tokens, vocab + mx.where(leaves, oldest, 0), 2 * vocab + places[:, 0]]
        one = mx.ones_like(tokens) if drawn is None else drawn.astype(mx.int32)
        change = [one, one, -one * leaves, one * (tokens - replaced)]
        first = rows.shape[1] * mx.arange(len(rows))[:, None]
        index, change = (mx.stack(each, axis=1) for each in (index, change))
        return History(self.table.at[(first + index).flatten()].add(change.flatten()), self.window)


def sampled(
    logits: mx.array,
    parameters: Parameters,
    position: mx.array,
    plan: Plan,
    history: History | None = None,
    mask: mx.array | None = None,
) -> tuple[list[mx.array], History | None]:
    """`sample`'s tokens and, where the plan has logprobs, what `logprobs` gives for them; the history with them.

    The history that was given is no longer one: a kernel writes to it.
    """
    if launch.on_cpu("sample"):
        return reference(logits, parameters, position, plan, history, mask)
    refusal = sample_kernel.covers(logits, plan)
    if launch.uses_kernel("sample", sample_kernel.case(logits, plan), refusal):
        return sample_kernel.fused(logits, parameters, position, plan, history, mask), history
    return reference(logits, parameters, position, plan, history, mask)


def sampled_along(
    logits: mx.array,
    parameters: Parameters,
    position: mx.array,
    plan: Plan,
    history: History | None = None,
    mask: mx.array | None = None,
) -> tuple[list[mx.array], History | None]:
    """`sampled` for T positions of each row: logits [B, T, V], position [B] of the first, mask [B, T, ceil(V / 32)] ->
    B T draws, a row's own after another. A position's history has the draws of the row's positions before it.
    """
    batch, new, vocab = logits.shape
    if new == 1:
        return sampled(logits[:, 0], parameters, position, plan, history, None if mask is None else mask[:, 0])
    if plan.penalties:
        return one_by_one(logits, parameters, position, plan, history, mask)
    positions = (position[:, None] + mx.arange(new, dtype=mx.uint32)).flatten()
    rows = None if mask is None else mask.flatten(0, 1)
    return sampled(logits.reshape(batch * new, vocab), repeated(parameters, new), positions, plan, history, rows)


def repeated(parameters: Parameters, times: int) -> Parameters:
    """Each row's, so many times."""
    each = {name: value for name, value in vars(parameters).items() if value is not None}
    return Parameters(**{name: mx.repeat(value, times, axis=0) for name, value in each.items()})


def one_by_one(logits, parameters, position, plan, history, mask) -> tuple[list[mx.array], History | None]:
    drawn = []
    for i in range(logits.shape[1]):
        now = logits[:, i]
        if drawn:  # in earnest, for a kernel that reads a table which the kernel before it has written
            now = now * (drawn[-1][0][:, None] * 0 + 1).astype(now.dtype)
        found, history = sampled(now, parameters, position + i, plan, history, None if mask is None else mask[:, i])
        drawn.append(found)
    return [mx.stack(each, axis=1).flatten(0, 1) for each in zip(*drawn, strict=True)], history


def reference(logits, parameters, position, plan, history=None, mask=None) -> tuple[list[mx.array], History | None]:
    tokens = sample(logits, parameters, position, plan, history, mask)
    drawn = [tokens] if plan.logprobs is None else [tokens, *logprobs(logits, tokens, plan.logprobs)]
    return drawn, history.after(tokens, position, logits.shape[-1]) if plan.penalties else history


def sample(
    logits: mx.array,
    parameters: Parameters,
    position: mx.array,
    plan: Plan,
    history: History | None = None,
    mask: mx.array | None = None,
) -> mx.array:
    """logits [B, V], position [B] of the token to be drawn, mask [B, ceil(V / 32)] -> tokens [B] uint32."""
    logits = logits.astype(mx.float32)
    if plan.penalties:
        logits = penalise(logits, parameters, history)
    if plan.bias:
        logits = logits + parameters.bias
    if plan.mask:
        logits = mx.where(allowed(mask, logits.shape[-1]), logits, -mx.inf)
    greedy = mx.argmax(logits, axis=-1)
    if not plan.draw:
        return greedy
    hot = parameters.temperature > 0
    scaled = logits / mx.where(hot, parameters.temperature, 1)[:, None]
    drawn = draw(truncate(scaled, parameters, plan), uniform(parameters.seed, position))
    return mx.where(hot, drawn, greedy)


def penalise(logits: mx.array, p: Parameters, history: History) -> mx.array:
    vocab, rows, r = logits.shape[-1], history.rows, p.repetition[:, None]
    counts, seen = rows[:, :vocab].astype(mx.float32), rows[:, vocab : 2 * vocab] > 0
    logits = mx.where(seen, mx.where(logits > 0, logits / r, logits * r), logits)
    return logits - p.presence[:, None] * (counts > 0) - p.frequency[:, None] * counts


def allowed(mask: mx.array, vocab: int) -> mx.array:
    """[B, ceil(V / 32)] uint32 -> [B, V] bool: token i is bit i % 32, counted from the lowest, of word i // 32."""
    bits = (mask[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(len(mask), -1)[:, :vocab] != 0


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
