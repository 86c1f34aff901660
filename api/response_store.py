"""What the Responses dialect remembers between requests: answers that may be asked for again or continued."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..engine.errors import RequestError
from .errors import encode
from .response_seal import Seal
from .rules import shown

Item = dict[str, Any]
KEPT = 256  # answers in memory; the longest unused one goes first
KEPT_BYTES = 256 << 20  # of JSON in all; what answers of one chain share counts for each of them


class NotFound(RequestError):
    status, code = 404, "not_found"


class PreviousNotFound(RequestError):
    status, code = 404, "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class Entry:
    """`items` are all that went in, those of the answers before included; `body` is what GET gives."""

    body: dict[str, Any]
    items: list[Item]
    size: int = 0

    @property
    def history(self) -> list[Item]:
        return [*self.items, *self.body["output"]]


class Store:
    """The last answers that were put or got, by their ids: `most` of them, or fewer large ones. For any thread."""

    def __init__(self, most: int = KEPT, most_bytes: int = KEPT_BYTES):
        self.most, self.most_bytes, self.bytes = most, most_bytes, 0
        self.entries, self.lock = OrderedDict[str, Entry](), threading.Lock()

    def put(self, entry: Entry) -> None:
        with self.lock:
            self.entries[entry.body["id"]] = entry
            self.bytes += entry.size
            while len(self.entries) > self.most or (self.bytes > self.most_bytes and len(self.entries) > 1):
                self.bytes -= self.entries.popitem(last=False)[1].size

    def get(self, ident: str) -> Entry | None:
        with self.lock:
            if ident in self.entries:
                self.entries.move_to_end(ident)
            return self.entries.get(ident)

    def pop(self, ident: str) -> Entry | None:
        with self.lock:
            entry = self.entries.pop(ident, None)
            self.bytes -= entry.size if entry else 0
            return entry

    def items(self) -> dict[str, Item]:
        """Everything that went in or came out, by its id."""
        with self.lock:
            entries = list(self.entries.values())
        return {item["id"]: item for entry in entries for item in entry.history}


def keeper(store: Store, items: list[Item]) -> Callable[[dict], None]:
    """Takes the finished body of an answer to these items."""
    return lambda body: store.put(Entry(body, items, len(encode(items))))


class Memory:
    """What one request can refer to: `stores` are looked through in turn."""

    def __init__(self, seal: Seal, *stores: Store):
        self.seal, self.stores = seal, stores
        self.index: dict[str, Item] | None = None  # made when a request first refers to an item

    def history(self, ident: str) -> list[Item]:
        for store in self.stores:
            if entry := store.get(ident):
                return entry.history
        raise PreviousNotFound(
            f"previous_response_id is {shown(ident)}, which is not kept here: answers stay in memory until a restart,"
            f" the last {KEPT} of them, and those made with store: false only on their own WebSocket. Send the whole"
            " conversation as input",
            "previous_response_id",
        )

    def item(self, name: str, ident: str) -> Item:
        if self.index is None:
            self.index = {key: item for store in reversed(self.stores) for key, item in store.items().items()}
        if ident in self.index:
            return self.index[ident]
        raise NotFound(f"{name} refers to the item {shown(ident)}, which is not kept here: send the item itself", name)


class Shelf:
    """What all requests of a server share: kept answers, those being made (for /cancel), and the seal."""

    def __init__(self, seal: Seal | None = None):
        self.store, self.seal = Store(), seal or Seal()
        self.running: dict[str, Any] = {}

    @property
    def memory(self) -> Memory:
        return Memory(self.seal, self.store)

    def entry(self, ident: str) -> Entry:
        if found := self.store.get(ident):
            return found
        raise NotFound(f"there is no response {shown(ident)}: they stay in memory, the last {KEPT} of them", "id")
