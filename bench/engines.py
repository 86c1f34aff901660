"""Smelt and mlx-lm as a benchmark drives them: the same prompts, greedy, one process each."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from .dispatches import dispatches

CALM = 3  # steps of a full batch before its steps are timed
QUEUED = 256  # more steps than device_step.py ever submits


def prompt(length: int, vocab: int, salt: int) -> list[int]:
    return [(7919 * (i + salt) ** 2 + 31 * i) % (vocab - 1) + 1 for i in range(length)]


class Smelt:
    """The engine's own scheduler, as a server starts it: tuning table, compiled kernels kept, kernels checked."""

    batches = True

    def __init__(self, folder: Path, kv_quant: str = "off"):
        from .. import models
        from ..engine import checked, kv_cache, limits, warming
        from ..engine.scheduler import Limits, Scheduler
        from ..models import source

        warming.prepare_kernels(source.home())
        self.model = models.load(folder)
        kv_cache.prepare(self.model, kv_quant)
        checked.check(self.model, folder, source.home())
        self.vocab = self.model.vocab
        self.scheduler = Scheduler(self.model, Limits(chunk=limits.default_chunk()))

    def greedy(self, prompt: list[int], tokens: int, put=lambda item: None):
        from ..engine.request import Sampling
        from ..engine.sequence import Sequence

        return Sequence(prompt, Sampling(temperature=0.0), 0, tokens, frozenset(), put)

    def add(self, prompt: list[int], tokens: int, put=lambda item: None):
        sequence = self.greedy(prompt, tokens, put)
        self.scheduler.add(sequence)
        return sequence

    def drawn(self, traced, sampler, tokens, step) -> tuple[list, list]:
        """A step's draws, and their pieces for the host; traced where the engine traces."""
        from ..kernels.resident import handed_over

        if traced.worthwhile:
            return traced(sampler, tokens, step)
        arrays = sampler(self.model.logits(self.model(tokens, step)))
        return arrays, [handed_over(array) for array in arrays]

    def run(self) -> None:
        while not self.scheduler.idle:
            self.scheduler.tick()

    def marks(self, prompt: list[int], tokens: int) -> list[float]:
        """When each token was there. Nothing is left running on the device."""
        from ..engine.sequence import Token

        marks = []
        self.add(prompt, tokens, lambda item: isinstance(item, Token) and marks.append(time.perf_counter()))
        self.run()
        return marks

    @contextmanager
    def decoding(self, prompts: list[list[int]], steps: int) -> Iterator[None]:
        """All prompts decode, calmly, and will for so many steps."""
        sequences = [self.add(prompt, len(prompt) + steps + 64) for prompt in prompts]
        while self.scheduler.waiting or self.scheduler.filling:
            self.scheduler.tick()
        for _ in range(CALM):
            self.scheduler.tick()
        yield
        for sequence in sequences:
            sequence.cancelled = True
        self.run()

    def step_s(self, prompts: list[list[int]], steps: int) -> float:
        """Seconds of one decode step of all prompts together, once all of them decode."""
        with self.decoding(prompts, steps):
            begin = time.perf_counter()
            for _ in range(steps):
                self.scheduler.tick()
            return (time.perf_counter() - begin) / steps

    def device_step_s(self, prompts: list[list[int]]) -> float | None:
        """Of which those that the device needs, where that can be told: see device_step.py."""
        with self.decoding(prompts, QUEUED):
            return self.device_step.seconds()

    @cached_property
    def device_step(self):
        """With the blocker, which is as long as it had to be before."""
        from .device_step import Decoding, DeviceStep

        return DeviceStep(Decoding(self.scheduler))

    @property
    def widest(self) -> int:
        """How many tokens of one stream a step may have: one where the model needs the host's eye for each."""
        from ..models.paging import REWIND

        return REWIND + 1 if self.model.traceable else 1

    def verify_s(self, prompt: list[int], width: int, steps: int) -> float:
        """Seconds of one step that verifies `width` - 1 drafts of one stream, all of which are then taken back: each step
        begins with the draw of the one before, and is submitted before that is read."""
        import mlx.core as mx

        from ..engine.sampler import Sampler
        from ..engine.scheduler import read
        from ..engine.step import TracedStep

        memory = self.model.memory()
        row, sampler = memory.open(2 * len(prompt) + width), Sampler([self.greedy(prompt, 1)], self.vocab)
        last = self.model(mx.array([prompt]), memory.step([row], len(prompt)), last=True)
        newest, drafts = sampler(self.model.logits(last))[0], mx.array([prompt[1:width]], mx.uint32)
        traced, marks, waiting = TracedStep(self.model, memory), [], []
        for _ in range(CALM + steps + 1):
            tokens, step = mx.concatenate([newest[:1, None], drafts], axis=1), memory.step([row], width, keep=True)
            drawn, pieces = self.drawn(traced, sampler, tokens, step)
            mx.async_eval(drawn, pieces)
            memory.rewind(row, width - 1)
            if waiting:
                read(waiting)
                marks.append(time.perf_counter())
            newest, waiting = drawn[0], pieces
        read(waiting)
        traced.forget()
        return (marks[-1] - marks[-1 - steps]) / steps

    def dispatches(self, prompt: list[int]) -> Counter:
        """What a decode step after the prompt dispatches: see dispatches.py."""
        import mlx.core as mx

        from ..engine.sampler import Sampler

        sequence = self.add(prompt, 8)
        while sequence.submitted < 2:
            self.scheduler.tick()
        scheduler, sampler = self.scheduler, Sampler([sequence], self.vocab)
        mx.eval(list(sampler.given.values()))  # once a batch, not a step
        tokens, step = scheduler.tokens[:, None], scheduler.memory.step([sequence.row], 1)
        drawn, pieces = self.drawn(scheduler.traced, sampler, tokens, step)
        found = dispatches([*drawn, *(piece for each in pieces for piece in each), *scheduler.memory.arrays])
        sequence.cancelled = True
        self.run()
        return found

    def settle(self) -> None:
        """Wait for what goes on behind the first tokens."""
        from ..kernels import ahead

        ahead.wait()

    def ways(self) -> list[str]:
        from ..kernels import launch

        return [f"{w.op} {w.case}: {w.way}{f' ({w.why})' if w.why else ''}" for w in launch.report()]


class MlxLm:
    """mlx_lm.generate.generate_step with its defaults."""

    batches = False

    def __init__(self, folder: Path):
        from mlx_lm.utils import load_model

        self.model, config = load_model(folder)
        self.vocab = config["vocab_size"]

    def marks(self, prompt: list[int], tokens: int) -> list[float]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        steps = generate_step(mx.array(prompt), self.model, max_tokens=tokens)
        marks = [time.perf_counter() for _ in steps]
        mx.synchronize(mx.default_stream(mx.default_device()))
        return marks

    def dispatches(self, prompt: list[int]) -> Counter:
        """What generate_step's own step dispatches: the token, its logprobs, and the caches."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self.model)
        for tokens in (prompt, [1]):  # the first token after a prompt makes room in some caches
            self.model(mx.array([tokens]), cache=cache)
            mx.eval([c.state for c in cache])
        tokens = mx.array([1])
        mx.eval(tokens)
        logits = self.model(tokens[None], cache=cache)[:, -1, :]
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        caches = [array for c in cache for array in (c.keys, c.values)]
        return dispatches([mx.argmax(logprobs, axis=-1), logprobs.squeeze(0), *caches])

    def settle(self) -> None:
        """It leaves nothing for later."""

    def ways(self) -> list[str]:
        return []


ENGINES = {"smelt": Smelt, "mlx-lm": MlxLm}
