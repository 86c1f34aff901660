"""How a prompt is read: in chunks that hang on its positions alone, each in slices of layers that hang on the time.

The chunks' borders are multiples of `Limits.chunk`, whatever else is running: a matrix product's rounding may change with
its number of rows, so that a prompt read in other chunks could get another answer. Besides, a chunk ends where the prefix
cache keeps the state, and the first one begins where a kept state stood. What bounds how long the running
streams wait is that a tick takes a chunk through some layers only, and the next tick goes on there.
"""

import mlx.core as mx

CHUNK_S = 0.1  # a tick holds up the running streams for about so long with a prompt
ALONE_S = 1.0  # without streams for as long as this, for progress to be told now and then
# A part of a chunk: two are queued, whose results in between are in memory until they are done, and a prompt that is no longer
# wanted is left within about so long. NVIDIA H200, 8192 tokens of the Llama-3.2-1B shape: 1.8 GiB at the most and 59,000 tokens a
# second by 5 ms, 2.6 and 57,000 by 10, 6.4 and 56,000 by 50; of the Qwen3-4B shape 4.0 and 16,100, 4.7 and 16,000, 10.0 and 15,700.
LOOK_S = 0.005
FIRST_CHUNK = 64  # before anything was measured
LEAST_CHUNK = 32  # fewer tokens tell little about the pace


class Pace:
    """How much of a prompt fits into a time, from what was measured. Work is tokens times layers."""

    def __init__(self, most: int, layers: int):
        self.most, self.depth, self.rate = most, layers, None  # rate: work a second

    def note(self, tokens: int, layers: int, seconds: float) -> None:
        if tokens >= min(LEAST_CHUNK, self.most) and seconds > 0:
            rate = tokens * layers / seconds
            self.rate = rate if self.rate is None else (self.rate + rate) / 2

    def chunk(self, alone: bool) -> int:
        """Tokens through all layers: a power of two, so that the same few shapes come again."""
        if self.rate is None:
            return min(FIRST_CHUNK, self.most)
        tokens = int(self.rate * (ALONE_S if alone else CHUNK_S) / self.depth)
        return min(self.most, max(LEAST_CHUNK, 1 << max(0, tokens.bit_length() - 1)))

    def work(self, alone: bool) -> int:
        """What a tick does."""
        if self.rate is None:
            return self.most * self.depth if alone else 1
        return max(1, int(self.rate * (ALONE_S if alone else CHUNK_S)))

    def layers(self, tokens: int) -> int:
        """Between two looks at whether the prompt is still wanted."""
        if self.rate is None:
            return max(1, self.depth // 8)
        return max(1, min(self.depth, int(LOOK_S * self.rate / tokens)))


class Chunk:
    """Some tokens of a sequence's prompt, none from `border` on, on their way through the layers."""

    def __init__(self, model, memory, sequence, most: int, border: int):
        context, self.start = sequence.context, sequence.prefilled
        self.tokens = min(most - self.start % most, border - self.start)
        self.end = self.start + self.tokens
        self.layers, self.done = len(model.blocks), 0
        self.hidden: mx.array | None = None  # of the last token, after `done` layers
        ids = mx.array([context[self.start : self.end]])
        self.stages = model.stages(ids, memory.step([sequence.row], self.tokens), last=True)

    def advance(self, layers: int) -> None:
        for _ in range(min(layers, self.layers - self.done)):
            self.hidden = next(self.stages)
            self.done += 1

    @property
    def complete(self) -> bool:
        return self.done == self.layers

    @property
    def read(self) -> int:
        """Of the prompt's tokens so many are as good as read."""
        return self.start + self.tokens * self.done // self.layers
