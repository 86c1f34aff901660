"""What is done before the first request: what kernels find on disk, and a first short answer."""

import os
from collections.abc import Callable
from pathlib import Path

from ..kernels import cubins, launch, table
from .request import Sampling
from .scheduler import Scheduler
from .sequence import Sequence

# Operations of one CUDA graph: MLX ends it when there are more. Enough for a step of any shape that we know to be one graph. NVIDIA
# H200, Qwen3-4B shape, 189 kernels a step: three graphs, by 64, took the GPU 1.71 ms with 8 streams, one 1.65.
GRAPH_OPS = "400"


def prepare_kernels(home: Path) -> None:
    """The user's own tuning table, if there is one; and a folder for code compiled for an NVIDIA GPU."""
    launch.use_table(table.path_in(home, launch.chip()[1]))
    if launch.machine() == "cuda":
        folder = home / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        cubins.use_folder(folder)
        os.environ.setdefault("MLX_MAX_OPS_PER_BUFFER", GRAPH_OPS)


def warm(model, plan, between: Callable[[], None] = lambda: None) -> None:
    """One short prompt and two steps, so that the first request does not pay for compiling. `between`: for a pause."""
    scheduler = Scheduler(model, plan)
    scheduler.add(Sequence([0, 0], Sampling(temperature=0.0), 0, 3, frozenset(), lambda item: None))
    while not scheduler.idle:
        scheduler.tick()
        between()
    model.forget()
