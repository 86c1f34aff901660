"""What the Responses dialect remembers between requests: answers that may be asked for again or continued."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..engine.errors import RequestError
from .response_seal import Seal
from .rules import shown

Item = dict[str, Any]
KEPT = 256  # answers in memory; the longest unused one goes first


class NotFound(RequestError):
    status, code = 404, "not_found"


class PreviousNotFound(RequestError):
    status, code = 404, "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class Entry:
    """`items` are all that went in, those of the answers before included; `body` is what GET gives."""

    body: dict[str, Any]
    items: list[Item]

    @property
    def history(self) -> list[Item]:
        return [*self.items, *self.body["output"]]


class Store:
    """The last `size` answers that were put or got, by their ids. Safe from any thread."""

    def __init__(self, size: int = KEPT):
        self.size, self.entries, self.lock = size, OrderedDict[str, Entry](), threading.Lock()

    def put(self, entry: Entry) -> None:
        with self.lock:
            self.entries[entry.body["id"]] = entry
            while len(self.entries) > self.size:
                self.entries.popitem(last=False)

    def get(self, ident: str) -> Entry | None:
        with self.lock:
            if ident in self.entries:
                self.entries.move_to_end(ident)
            return self.entries.get(ident)

    def pop(self, ident: str) -> Entry | None:
        with self.lock:
            return self.entries.pop(ident, None)

    def item(self, ident: str) -> Item | None:
        with self.lock:
            histories = [entry.history for entry in reversed(self.entries.values())]
        return next((item for history in histories for item in history if item.get("id") == ident), None)


class Memory:
    """What one request can refer to: `stores` are looked through in turn."""

    def __init__(self, seal: Seal, *stores: Store):
        self.seal, self.stores = seal, stores

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
        for store in self.stores:
            if found := store.item(ident):
                return found
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
