"""What is imported after the port is open: without Falcon and the dialects a server listens 75 ms sooner."""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from .house import Gate

if TYPE_CHECKING:
    from .app import App

T = TypeVar("T")


class Once(Generic[T]):
    """What `make` returns, made by the first call; other threads wait for it."""

    def __init__(self, make: Callable[[], T]):
        self.make, self.lock = make, threading.Lock()
        self.made: T | None = None

    def __call__(self) -> T:
        with self.lock:
            if self.made is None:
                self.made = self.make()
            return self.made


class LateApp:
    """The WSGI application that `make` gives, from the first request on or from `warm`. `gate` as in `App`."""

    def __init__(self, gate: Gate, make: "Callable[[], App]"):
        self.gate, self.real = gate, Once(make)

    def __call__(self, environ, start_response):
        return self.real()(environ, start_response)

    def warm(self) -> None:
        self.real().warm()


class Late:
    """The resources that `make` gives by path, made with the first request for one of them, or before by `real`.

    methods   path -> names of its responders
    """

    def __init__(self, methods: Mapping[str, tuple[str, ...]], make: Callable[[], dict[str, object]]):
        self.methods, self.real = methods, Once(make)

    def stand_ins(self) -> dict[str, object]:
        return {path: self.stand_in(path, names) for path, names in self.methods.items()}

    def stand_in(self, path: str, names: tuple[str, ...]) -> object:
        def responder(name):
            return lambda _, req, resp, **params: getattr(self.real()[path], name)(req, resp, **params)

        return type("StandIn", (), {name: responder(name) for name in names})()
