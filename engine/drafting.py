"""Which answers are drafted, and how: as the request says, or the server, or its prompt. On the thread of whoever asks."""

import logging
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from ..kernels import launch
from .errors import BadRequest
from .lookup import Lookup, repetition
from .options import Options
from .request import Request
from .speculation import Speculation

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

log = logging.getLogger(__name__)

IMPOSSIBLE = "this model's rotation follows the length of the text: a draft would change the tokens before it"
LEAST_REPETITION = 0.01  # of a prompt, for its answer to be drafted unasked
# Plain steps that a drafted token costs in MLX's products on a CPU (2-core EPYC: 18M parameters in 4 bits, 100M in bfloat16).
PACKED_PRICE, PLAIN_PRICE = 0.75, 0.35


class Drafting:
    """Of one model. vocab: how many tokens its logits have.

    drafter  whether the drafting model drafts for a request that does not say; None: there is no drafting model
    price    of a drafted token, see `speculation.Gate`
    """

    def __init__(self, options: Options, tokenizer: "Tokenizer", model):
        self.options, self.tokenizer, self.vocab, self.price = options, tokenizer, model.vocab, price_of(model)
        self.drafter: bool | None = model.drafter and model.drafter.pays
        self.possible: bool = model.traceable

    def make(self, request: Request, prompt: Seq[int]) -> list[Speculation | None]:
        """One for each of the request's completions; None where nothing is drafted."""
        assisted, lookups = self.assisted(request), self.lookups(request, prompt)
        shared = self.options.pld_draft_len, bool(request.prediction), assisted, self.price
        return [Speculation(lookup, *shared) if lookup or assisted else None for lookup in lookups]

    def lookups(self, request: Request, prompt: Seq[int]) -> list[Lookup | None]:
        if not self.wanted(request, prompt):
            return [None] * request.n
        first = Lookup(prompt, self.options.pld_key_len, self.prediction(request))
        return [first, *(first.fork() for _ in range(1, request.n))]

    def assisted(self, request: Request) -> bool:
        if self.drafter is None:
            if request.enable_drafter:
                raise BadRequest("enable_drafter is true, but there is no drafting model: serve with --drafter", "enable_drafter")
            return False
        return self.drafter if request.enable_drafter is None else request.enable_drafter

    def wanted(self, request: Request, prompt: Seq[int]) -> bool:
        """What a request names is done; else the prompt must repeat something."""
        if not self.possible:
            if request.enable_pld:
                raise BadRequest(f"enable_pld is true, but {IMPOSSIBLE}", "enable_pld")
            return False
        if request.enable_pld is not None:
            return request.enable_pld
        if request.prediction:
            return True
        return self.options.pld and self.promising(prompt)

    def promising(self, prompt: Seq[int]) -> bool:
        score = repetition(prompt)
        log.debug("spec-gate: ngram-score=%.4f", score)
        return score >= LEAST_REPETITION

    def prediction(self, request: Request) -> list[int]:
        """What the answer will be like, as far as the model could write it."""
        tokens = self.tokenizer.encode(request.prediction, parse_special=False) if request.prediction else []
        return [token for token in tokens if token < self.vocab]


def assisted(model, options: Options):
    """The model with the drafter that the options name, if they name one."""
    if options.drafter is None:
        return model
    from .. import models
    from ..models import source

    folder = source.locate_drafter(options.drafter, options.model_dirs, download=options.download)
    return models.assisted(model, folder, options.draft_block)


def price_of(model) -> float:
    if launch.machine() != "cpu":
        return 0.0  # the kernels read each weight once for all positions of a step
    return PACKED_PRICE if model.embedding.packed else PLAIN_PRICE
