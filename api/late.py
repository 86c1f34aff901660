"""Routes whose code is imported after the port is open: without the dialects a server listens 30 ms sooner."""

import threading
from collections.abc import Callable, Mapping


class Late:
    """The resources that `make` gives by path, made once, by the first request for one of them or before by `real`.

    methods   path -> names of its responders
    """

    def __init__(self, methods: Mapping[str, tuple[str, ...]], make: Callable[[], dict[str, object]]):
        self.methods, self.make = methods, make
        self.lock = threading.Lock()
        self.made: dict[str, object] | None = None

    def real(self) -> dict[str, object]:
        with self.lock:
            if self.made is None:
                self.made = self.make()
            return self.made

    def stand_ins(self) -> dict[str, object]:
        return {path: self.stand_in(path, names) for path, names in self.methods.items()}

    def stand_in(self, path: str, names: tuple[str, ...]) -> object:
        def responder(name):
            return lambda _, req, resp, **params: getattr(self.real()[path], name)(req, resp, **params)

        return type("StandIn", (), {name: responder(name) for name in names})()
