"""Where tests put a row: by slots, wherever in a page these begin."""

from smelt.kernels.pages import PAGE, Runs, Span


def span_of(first: int, runs: Runs) -> Span:
    """The positions from `first` on in these runs of slots, of which all but the first begin with a page."""
    held = tuple((slot // PAGE, -(-(slot + count) // PAGE) - slot // PAGE) for slot, count in runs)
    return Span(first, first + sum(count for _, count in runs), first - runs[0][0] % PAGE, held)
