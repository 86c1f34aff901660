"""Pages that several hold: rows, which write, and snapshots, which only read. Kwon et al. 2023, section 4.4."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Held:
    """How many rows and snapshots hold a page; none of them writes to the first `read` slots, which a snapshot has."""

    rows: int = 1
    snapshots: int = 0
    read: int = 0


class Shares:
    """Who holds which page of a geometry. A page in use that is not listed here has one row and no snapshot.

    kept      pages that only snapshots hold
    repeated  rows' pages that another row holds as well: what they would take more, were nothing shared
    """

    def __init__(self):
        self.pages: dict[int, Held] = {}
        self.kept = self.repeated = 0

    def count(self, page: int, rows: int = 0, snapshots: int = 0, read: int = 0) -> bool:
        """So many more (or less) hold the page; whether anybody does then."""
        held = self.pages.pop(page, None)
        if held is None:
            held = Held()
        else:
            self._sum(held, -1)
        held.rows, held.snapshots, held.read = held.rows + rows, held.snapshots + snapshots, max(held.read, read)
        assert held.rows >= 0 and held.snapshots >= 0, f"page {page} was given back twice"
        if held.snapshots or held.rows > 1:
            self.pages[page] = held
            self._sum(held, 1)
        return held.rows + held.snapshots > 0

    def _sum(self, held: Held, sign: int) -> None:
        self.kept += sign * (held.rows == 0)
        self.repeated += sign * max(0, held.rows - 1)

    def freed(self, pages: Iterable[int], rows: int = 0, snapshots: int = 0) -> list[int]:
        """Of pages that so many less hold, those that nobody does."""
        return [page for page in pages if not self.count(page, -rows, -snapshots)]

    def writable(self, page: int, offset: int) -> bool:
        """May a row that holds the page write to it from slot `offset` on?"""
        held = self.pages.get(page)
        return held is None or held.read <= offset

    def claimable(self, page: int, offset: int) -> bool:
        """May a row that does not hold the page yet?"""
        return self.pages[page].rows == 0 and self.writable(page, offset)

    def unused(self, pages: Iterable[int]) -> bool:
        """Does a snapshot have one of its pages without any row?"""
        return any(self.pages[page].rows == 0 for page in pages)
