"""One model behind all dialects: requests in, streams of events out.

The weights are read on the engine's thread while the tokenizer and the chat template load on another; requests are
rendered and tokenised on the thread that brings them. What loading and requests need is imported there, so that a
server can listen before.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from . import kv_cache
from .budget import Budget
from .describe import describe
from .engine import Engine
from .errors import BadRequest, ContextExceeded, EngineFailed, NotReady
from .options import ModelInfo, Options
from .turns import TURNS

if TYPE_CHECKING:
    from . import parse
    from .chat import ChatTemplate
    from .drafting import Drafting
    from .embedding import Embedding
    from .guides import Guides
    from .request import Request, Sampling
    from .scheduler import Limits
    from .sequence import Sequence
    from .stream import Choice, Stream
    from .tokenizer import Tokenizer

log = logging.getLogger(__name__)

LEAST_ANSWER = 1  # tokens of room that a prompt must leave
FROM_CHECKPOINT = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

Progress = Callable[[str, int, int], None]


class Service:
    """state: "loading", "ready", "failed" (see `error`), "closed".

    name    what clients see
    budget  of the memory for states, that several models share
    """

    def __init__(
        self,
        options: Options,
        *,
        progress: Progress | None = None,
        name: str | None = None,
        budget: Budget | None = None,
    ):
        self.options, self.progress = options, progress
        self.share = (budget or Budget()).share()
        self.folder: Path | None = None
        self.name = name or served_name(options.model)
        self.info: ModelInfo | None = None
        self.tokenizer: Tokenizer | None = None
        self.template: ChatTemplate | None = None
        self.format: parse.Format | None = None  # how the checkpoint writes reasoning and tool calls
        self.end_ids: frozenset[int] = frozenset()
        self.guides: Guides | None = None
        self.drafting: Drafting | None = None
        self.defaults: dict[str, Any] = {}
        self.text_error: Exception | None = None
        self.text_ready = threading.Event()
        self.located = threading.Event()
        self.engine = Engine(self._load)

    # Life

    def start(self) -> None:
        threading.Thread(target=self._load_text, name="tokenizer", daemon=True).start()
        self.engine.start()

    @property
    def state(self) -> str:
        if self.text_error is not None:
            return "failed"
        if self.engine.state == "ready" and not self.text_ready.is_set():
            return "loading"
        return self.engine.state

    @property
    def error(self) -> Exception | None:
        return self.text_error or self.engine.error

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return when requests can be submitted; raise what loading raised, or TimeoutError."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for event in (self.text_ready, self.engine.ready):
            if not event.wait(None if until is None else until - time.monotonic()):
                raise TimeoutError(f"the model is not ready after {timeout_s} s")
            if self.error is not None:
                raise self.error

    def close(self) -> None:
        """Refuse new work, cancel what runs, and free the memory. Ends loading, too."""
        self.engine.close()
        self.share.leave()

    # Loading

    def _load_text(self) -> None:
        try:
            from ..models import source
            from . import parse
            from .chat import ChatTemplate
            from .tokenizer import Tokenizer, eos_ids

            self.folder = source.locate(
                self.options.model, self.options.model_dirs, download=self.options.download
            )
            self.located.set()
            self.tokenizer = Tokenizer.load(self.folder)
            self.template = ChatTemplate.load(self.folder, self.tokenizer)
            self.format = parse.choose(self.template.tool_source, self.tokenizer)
            self.end_ids = eos_ids(self.folder, self.tokenizer)
            self.defaults = sampling_defaults(self.folder) | dict(self.options.sampling)
        except Exception as error:
            self.text_error = error
        finally:
            self.located.set()
            self.text_ready.set()

    def _load(self):
        self.located.wait()
        if self.folder is None:
            raise self.text_error or NotReady("no model was found")
        from .. import models
        from ..models import source
        from . import warming
        from .drafting import Drafting, assisted

        warming.prepare_kernels(source.home())
        model = assisted(models.load(self.folder, self._report), self.options)
        with TURNS:
            plan = self._prepare(model)
        self.text_ready.wait()
        if self.text_error is None:
            from .guides import Guides

            self.drafting = Drafting(self.options, self.tokenizer, model)
            self.guides = Guides(self.tokenizer, self.format, model.vocab, self.end_ids)
        self.info = describe(self.folder, model, self.share.context, self.template, self.options.kv_quant)
        return model, plan

    def _report(self, done: int, total: int) -> None:
        if self.engine.state == "closed":
            raise NotReady("the server is shutting down")
        if self.progress:
            self.progress("weights", done, total)

    def _prepare(self, model) -> "Limits":
        from ..models import source
        from . import checked, limits, warming
        from .prefill_trace import SLOWER

        o = self.options
        kv_cache.prepare(model, o.kv_quant, o.kv_attn_mode)
        checked.check(model, self.folder, source.home(), TURNS.pass_on)
        kv_cache.require(model, o)
        plan = limits.plan(model, o, self.share)
        if o.warmup:
            warming.warm(model, plan, TURNS.pass_on)
        if o.prefill_trace:
            log.warning(SLOWER)
        return replace(plan, trace=o.prefill_trace)

    @property
    def context(self) -> int:
        """Tokens of the context window: as planned, or what is left of it beside other models."""
        return self.share.window

    # Requests

    def submit(self, request: "Request") -> "Stream":
        """Render, tokenise and queue a request. Raises a RequestError for what cannot be run."""
        from .sequence import Sequence
        from .stream import Stream

        self.check()
        kv_cache.agree(request.kv_quant, self.options)
        began = time.monotonic()
        rendered = None if request.messages is None else self.render(request)
        prompt = self.prompt_of(request, rendered)
        borders = () if rendered is None else self.borders_of(request, rendered, prompt)
        template_s = time.monotonic() - began
        context = self.context
        room = context - len(prompt)
        if room < LEAST_ANSWER:
            raise ContextExceeded(len(prompt), context, "prompt" if request.messages is None else "messages")
        sampling = self.sampling_of(request)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        limit = min(room, request.max_tokens or self.options.max_tokens or room)
        timeout_s = request.timeout_s or self.options.timeout_s
        deadline = request.arrived + timeout_s if timeout_s else None
        queue: SimpleQueue = SimpleQueue()
        guides = self.guides.make(request, rendered, self.budget_of(request, rendered))
        drafts = self.drafting.make(request, prompt)
        sequences = [
            Sequence(prompt, sampling, seed + i, limit, self.end_ids, put_with(queue, i), deadline, guide, speculation, borders)
            for i, (guide, speculation) in enumerate(zip(guides, drafts, strict=True))
        ]
        choices = [self.choice(i, s, request, rendered, template_s) for i, s in enumerate(sequences)]
        stream = Stream(self.engine, queue, choices)
        self.engine.submit(*sequences)
        return stream

    def embed(self, inputs: Seq[str | Seq[int]], pooling: str | None = None) -> "Embedding":
        """Queue texts or tokens to be made vectors; the pooling that the checkpoint names, if none is named."""
        from . import embedding

        self.check()
        prompts = [
            embedding.checked(
                self.tokenizer.encode_whole(given) if isinstance(given, str) else self.known(given, f"input[{index}]"),
                self.context,
                f"input[{index}]",
            )
            for index, given in enumerate(inputs)
        ]
        made = embedding.Embedding(prompts, pooling or self.info.pooling)
        self.engine.embed(made)
        return made

    def check(self) -> None:
        if self.text_error is not None:
            raise EngineFailed(f"the model could not be loaded: {self.text_error}")
        self.engine.check()
        if not self.text_ready.is_set():
            raise NotReady("the model is still loading; try again in a moment")

    def choice(
        self, index: int, sequence: "Sequence", request: "Request", rendered: str | None, template_s: float
    ) -> "Choice":
        """Answers to conversations are split into reasoning, text and calls; completions are text as it comes."""
        from .chat import ends_in_reasoning
        from .reasoning import ReasoningState
        from .stream import Choice

        if rendered is None:
            return Choice(index, sequence, self.tokenizer, request.stop, template_s=template_s)
        opened, tags = ends_in_reasoning(rendered), self.format.tags
        parser = self.format.parser(request.tools, opened=opened)
        reasoning = tags and ReasoningState(tags, self.tokenizer.token_bytes, opened)
        keep = self.format.keep(self.tokenizer)
        return Choice(index, sequence, self.tokenizer, request.stop, parser, keep, reasoning, template_s)

    def budget_of(self, request: "Request", rendered: str | None) -> int | None:
        """Tokens of reasoning: as the request says, or its effort where the template has no word for it, or the server."""
        from .chat import ends_in_reasoning
        from .request import EFFORT_BUDGETS

        if request.reasoning_budget is not None:
            return None if request.reasoning_budget < 0 else request.reasoning_budget
        if request.template_kwargs.get("enable_thinking") is False:  # some templates open the block all the same
            return 0 if rendered and ends_in_reasoning(rendered) else None
        effort = request.template_kwargs.get("reasoning_effort")
        if isinstance(effort, str) and effort in EFFORT_BUDGETS and not self.template.takes_effort:
            return EFFORT_BUDGETS[effort]
        return self.options.reasoning_budget

    def prompt_of(self, request: "Request", rendered: str | None = None) -> list[int]:
        """The request's tokens; `rendered` is its conversation, where that is known already."""
        tokens = self.tokens_of(request, rendered)
        if not tokens:
            raise BadRequest("the prompt is empty; it must have at least one token", "prompt")
        return tokens

    def tokens_of(self, request: "Request", rendered: str | None) -> list[int]:
        if request.tokens is not None:
            return self.known(request.tokens, "prompt")
        if request.text is not None:
            return self.tokenizer.encode_prompt(request.text, rendered_by_template=False)
        return self.tokenizer.encode_prompt(rendered or self.render(request), rendered_by_template=True)

    def known(self, tokens: Seq[int], name: str) -> list[int]:
        """The tokens, all of which the model has."""
        vocab = self.info.vocab_size
        wrong = next((token for token in tokens if not 0 <= token < vocab), None)
        if wrong is not None:
            raise BadRequest(f"{name} has the token {wrong}; ids go from 0 to {vocab - 1}", name)
        return list(tokens)

    def render(self, request: "Request") -> str:
        """The conversation as the model reads it."""
        from .chat import RESERVED

        taken = [name for name in RESERVED if name in request.template_kwargs]
        if taken:
            raise BadRequest(f"{taken[0]!r} is no variable of the chat template to be set; it has its own parameter", taken[0])
        return self.template.render(
            request.messages,
            tools=request.tools,
            add_generation_prompt=not request.continue_final,
            continue_final=request.continue_final,
            **request.template_kwargs,
        )

    def borders_of(self, request: "Request", rendered: str, prompt: list[int]) -> tuple[int, ...]:
        """Where messages of the prompt end, if the model's state is kept there."""
        from .chat_borders import borders

        memory = self.share.memory
        if self.options.prefix_entries == 0 or memory is None or not memory.exact(len(prompt)):
            return ()
        render = lambda messages: self.template.render(  # noqa: E731
            messages, request.tools, add_generation_prompt=False, **request.template_kwargs
        )
        return borders(request.messages, rendered, prompt, render, self.tokenizer.token_bytes)

    def sampling_of(self, request: "Request") -> "Sampling":
        from .request import Sampling

        sampling = Sampling(**{**self.defaults, **request.sampling})
        for token in sampling.logit_bias:
            if not 0 <= token < self.info.vocab_size:
                raise BadRequest(
                    f"logit_bias names token {token}; ids go from 0 to {self.info.vocab_size - 1}", "logit_bias"
                )
        return sampling

    def kernels(self) -> list:
        """Which way each operation has gone, by kernel or by reference, and why."""
        from ..kernels import launch

        return launch.report()

    def tuning(self) -> dict[str, Any]:
        """The knobs that are in force on this chip, and where they come from."""
        from .tune import in_force

        return in_force()

    def memory(self) -> dict[str, int]:
        import mlx.core as mx

        return {"active_bytes": mx.get_active_memory(), "peak_bytes": mx.get_peak_memory()}

    def stats(self) -> dict[str, int]:
        scheduler = self.engine.scheduler
        if scheduler is None:
            return {"running": 0, "waiting": 0, "steps": 0, "prefix_entries": 0, "prefix_bytes": 0}
        busy = len(scheduler.running) + (scheduler.filling is not None)
        known = {"prefix_entries": scheduler.prefixes.entries, "prefix_bytes": scheduler.prefixes.nbytes}
        return {"running": busy, "waiting": len(scheduler.waiting), "steps": scheduler.steps, **known}


def served_name(model: str | None) -> str:
    """What clients see: org/name as it stands, the last part of a folder's path, or the built-in model's name."""
    if model is None:
        return "builtin"
    return Path(model).name if Path(model).is_dir() else model


def put_with(queue: SimpleQueue, index: int) -> Callable[[Any], None]:
    return lambda item: queue.put((index, item))


def sampling_defaults(folder: Path) -> dict[str, Any]:
    """What generation_config.json recommends. Its repetition penalty looks at the whole sequence."""
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    config = json.loads(path.read_text())
    found = {name: config[name] for name in FROM_CHECKPOINT if config.get(name) is not None}
    if config.get("do_sample") is False:
        found["temperature"] = 0.0
    if "repetition_penalty" in found:
        found["repetition_window"] = 0
    return found
