"""Which models are loaded, and which make way: with services that load when a test says so, and no model at all."""

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import FakeService, slowly, words
from smelt.engine.errors import BadRequest, EngineFailed, ModelNotFound, NotReady
from smelt.engine.events import Failed, Finished
from smelt.engine.options import Options, Residency
from smelt.engine.registry import Registry
from smelt.engine.request import Request
from smelt.engine.resident import Busy, LoadFailed, OutOfMemory, mib
from smelt.models.source import Found
from test_serve import until

HELLO = [{"role": "user", "content": "Hi"}]
NAMES = ("a", "org/b", "c", "d")


class House:
    """A registry of fakes, each of 1000 bytes. `holds[name]` keeps it from being loaded, `errors[name]` makes it fail."""

    def __init__(self, options=None, found=None, capacity=1 << 40, free=1 << 40, script=words, **residency):
        self.holds, self.errors, self.made = {}, {}, defaultdict(list)
        self.found = [one(name) for name in NAMES] if found is None else found
        self.script, self.looks = script, 0
        self.registry = Registry(
            options or Options(model="a", timeout_s=20),
            Residency(**residency),
            self.make,
            catalogue=self.catalogue,
            capacity=lambda: capacity,
            free=lambda: free - 1000 * sum(service.state == "ready" for made in self.made.values() for service in made),
        )

    def catalogue(self):
        self.looks += 1
        return self.found

    def make(self, options, *, name="?", **more):
        service = FakeService(options, name=name, script=self.script, state="loading", **more)
        service.load = lambda: self.load(service)
        self.made[name].append(service)
        return service

    def load(self, service):
        if hold := self.holds.get(service.name):
            hold.wait(10)
        service.error = self.errors.get(service.name)
        FakeService.load(service)

    def __enter__(self):
        self.registry.start()
        self.registry.wait_ready(10)
        return self

    def __exit__(self, *error):
        for hold in self.holds.values():
            hold.set()
        self.registry.close()

    def hold(self, name):
        self.holds[name] = threading.Event()
        return self.holds[name]

    def ask(self, name=None):
        return self.registry.stream(name, lambda service: service.submit(Request(messages=HELLO)))

    def answer(self, name=None):
        stream = self.ask(name)
        try:
            while not isinstance(event := stream.next(10), Finished):
                if isinstance(event, Failed):
                    raise event.error
                assert event is not None, "nothing came"
            return stream.lease.resident.name
        finally:
            stream.cancel()

    def states(self):
        return {resident.name: resident.state for resident in self.registry.known()}

    def state(self, name):
        known = self.registry.models.get(name)
        return known and known.state


def one(name, supported=True, size=1000):
    reason = None if supported else "model_type 'x' is not supported"
    return Found(name, Path("/models") / name, size, "llama", "4-bit group 64", supported, reason, "folder")


# Which model answers


def test_names_and_who_answers():
    with House() as house:
        assert house.answer() == "a" and house.answer("org/b") == "org/b" and house.answer("gpt-4") == "a"
        assert house.answer("B") == "a"  # a name is exact, as mlx-serve has it
        assert house.states() == {"a": "ready", "org/b": "ready", "c": "unloaded", "d": "unloaded"}


def test_only_what_is_on_the_disk_is_loaded_and_nothing_is_downloaded():
    with House(Options(model="a", download=True, timeout_s=20, max_tokens=7, drafter="/d")) as house:
        house.answer("org/b")
        (service,) = house.made["org/b"]
        assert service.options.model == "/models/org/b" and not service.options.download
        assert service.options.drafter is None and house.made["a"][0].options.drafter == "/d"
        assert service.options.max_tokens == 7 and house.made["a"][0].options.download


def test_what_is_installed_and_cannot_be_run_is_refused():
    with House(found=[one("a"), one("odd", supported=False)]) as house:
        with pytest.raises(BadRequest, match="odd is installed, but cannot be run: model_type 'x'"):
            house.ask("odd")
        assert "odd" not in house.states()


def test_the_default_model_is_not_listed_twice():
    with House(Options(model="/models/a", timeout_s=20), found=[one("org/long-a"), one("c")]) as house:
        house.made["/models/a"][0].folder = house.registry.default.folder = Path("/models/org/long-a")
        assert list(house.states()) == ["/models/a", "c"]
        assert house.answer("org/long-a") == "/models/a"


def test_models_come_and_go_on_the_disk():
    with House(found=[one("a")]) as house:
        assert list(house.states()) == ["a"]
        house.found = [one("a"), one("new")]
        assert house.states() == {"a": "ready", "new": "unloaded"}
        house.answer("new")
        house.found = [one("a")]
        assert house.states() == {"a": "ready", "new": "ready"}  # it is in memory
        house.registry.unload("new")
        assert list(house.states()) == ["a"]


def test_unknown_names_do_not_search_the_disk_again_and_again():
    with House() as house:
        for _ in range(20):
            house.answer("gpt-4")
        assert house.looks == 1


def test_a_name_that_comes_while_the_disk_is_searched_waits_for_what_is_found():
    """Otherwise the default model would answer for it."""
    with House() as house:
        catalogue = house.registry.catalogue
        house.registry.catalogue = lambda: (time.sleep(0.1), catalogue())[1]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(house.answer, ["c", "d", "org/b", "c"])) == ["c", "d", "org/b", "c"]


def test_strictly_by_name():
    with House() as house:
        with pytest.raises(ModelNotFound, match=r"no model 'gpt-4' here; this server has a, c, d, org/b"):
            house.registry.lease("gpt-4", strict=True)


# Loading


def test_a_request_waits_while_others_go_on():
    with House() as house:
        go, waiting = house.hold("c"), None
        waiting = house.ask("c")
        assert waiting.next(0.05) is None and house.state("c") == "loading"
        assert house.answer("a") == "a"
        go.set()
        assert waiting.next(10) is not None and house.state("c") == "ready"
        waiting.cancel()


def test_many_requests_load_a_model_once():
    with House() as house:
        go = house.hold("c")
        streams = [house.ask("c") for _ in range(8)]
        go.set()
        assert all(stream.next(10) is not None for stream in streams)
        assert len(house.made["c"]) == 1 and house.registry.models["c"].users == 8
        for stream in streams:
            stream.cancel()
            stream.cancel()  # twice is once
        assert house.registry.models["c"].users == 0


def test_before_the_first_model_is_there_nobody_waits():
    house = House()
    go = house.hold("a")
    house.registry.start()
    for name in (None, "c"):
        with pytest.raises(NotReady, match="still loading"):
            house.ask(name)
    assert house.registry.state == "loading"
    go.set()
    house.registry.wait_ready(10)
    assert house.registry.state == "ready" and house.answer("c") == "c"
    house.registry.close()


def test_a_model_that_does_not_load_says_so_and_may_be_tried_again():
    with House() as house:
        house.errors["c"] = RuntimeError("the file is broken")
        for _ in range(2):
            with pytest.raises(LoadFailed, match="c could not be loaded: the file is broken"):
                house.answer("c")
        row = house.registry.models["c"]
        assert (row.state, row.error, row.users) == ("error", "the file is broken", 0)
        assert house.registry.state == "ready" and house.answer() == "a"
        house.errors.clear()
        assert house.answer("c") == "c" and house.state("c") == "ready"
        assert len(house.made["c"]) == 3 and house.made["c"][0].state == "closed"


def test_the_first_model_that_does_not_load_is_told_as_it_is():
    house = House()
    house.errors["a"] = FileNotFoundError("no such model")
    house.registry.start()
    with pytest.raises(FileNotFoundError):
        house.registry.wait_ready(10)
    assert house.registry.state == "failed" and house.registry.error == "no such model"
    with pytest.raises(LoadFailed, match="no such model"):
        house.ask()
    house.registry.close()


def test_an_engine_that_gave_up_is_replaced_by_the_next_request():
    with House() as house:
        broken = house.made["a"][0]
        broken.state, broken.error = "failed", EngineFailed("it broke")
        assert house.state("a") == "error" and house.registry.state == "failed"
        assert house.answer() == "a" and house.registry.state == "ready"
        assert broken.state == "closed" and len(house.made["a"]) == 2


def test_who_waits_too_long_is_told_what_for():
    with House(Options(model="a", timeout_s=0.2)) as house:
        house.hold("c")
        stream = house.ask("c")
        began = time.monotonic()
        assert stream.next(0.05) is None
        failed = stream.next(10)
        assert isinstance(failed, Failed) and isinstance(failed.error, NotReady) and time.monotonic() - began < 2
        assert "c could not be loaded in time: its weights are being read" in str(failed.error)
        assert stream.next(0.01) is None
        stream.cancel()


def test_a_request_that_leaves_while_it_waits_is_never_submitted():
    with House() as house:
        go = house.hold("c")
        stream = house.ask("c")
        stream.cancel()
        go.set()
        until(lambda: house.state("c") == "ready")
        assert stream.next(0.1) is None and not house.made["c"][0].requests


def test_what_is_wrong_with_a_request_is_said_at_once_or_later():
    with House() as house:
        refuse = lambda service: service.submit(Request(messages=HELLO, n=0))  # noqa: E731
        with pytest.raises(BadRequest, match="n is 0"):
            house.registry.stream("a", refuse)
        stream = house.registry.stream("c", refuse)
        failed = stream.next(10)
        assert isinstance(failed, Failed) and "n is 0" in str(failed.error)
        stream.cancel()
        assert all(resident.users == 0 for resident in house.registry.models.values())


# Room


def test_the_one_not_used_for_longest_makes_way():
    with House(max_models=2) as house:
        for name in ("a", "c", "a", "d"):  # c is older than a
            house.answer(name)
        assert house.states() == {"a": "ready", "d": "ready", "c": "unloaded", "org/b": "unloaded"}
        house.answer("c")
        assert house.states() == {"a": "unloaded", "c": "ready", "d": "ready", "org/b": "unloaded"}
        assert house.registry.state == "ready" and house.answer() == "a"  # the default one comes back


def test_a_model_with_running_requests_stays():
    with House(max_models=1, script=slowly(0.05, ["x"] * 6)) as house:
        running = house.ask("a")
        assert running.next(10) is not None
        other = house.ask("c")
        while (event := running.next(10)) is not None and not isinstance(event, Finished):
            assert house.state("a") == "ready" and house.made["a"][0].state == "ready"
            assert other.next(0) is None
        assert isinstance(event, Finished)
        running.cancel()
        assert other.next(10) is not None and house.state("a") == "unloaded"
        other.cancel()


def test_who_waits_for_room_too_long_is_told_the_numbers():
    with House(Options(model="a", timeout_s=0.3), max_models=1, script=slowly(0.05, ["x"] * 60)) as house:
        running = house.ask("a")
        other = house.ask("c")
        while (failed := other.next(0.1)) is None:
            pass
        assert f"it needs {mib(1000)}, and a ({mib(1000)}) answer requests; --max-resident-models 1" in str(failed.error)
        other.cancel()
        until(lambda: house.state("c") == "unloaded")  # nobody wants it any more
        assert house.made["c"] == [] and house.state("a") == "ready"
        running.cancel()


def test_bytes_are_a_limit_too():
    with House(max_bytes=2500) as house:
        for name in ("c", "d"):
            house.answer(name)
        assert [name for name, state in house.states().items() if state == "ready"] == ["c", "d"]


def test_a_model_that_can_never_fit_is_refused_with_the_numbers_and_nothing_makes_way():
    with House(found=[one("a"), one("huge", size=5 << 30)], capacity=4 << 30) as house:
        with pytest.raises(OutOfMemory, match="huge has 5120 MiB of weights, 3277 MiB are allowed.*80% of the 4096 MiB"):
            house.answer("huge")
        assert house.state("a") == "ready" and house.state("huge") == "error" and house.made["huge"] == []
    with House(found=[one("a"), one("huge", size=5 << 30)], capacity=4 << 30, max_bytes=0) as house:
        assert house.answer("huge") == "huge"


def test_memory_that_other_programs_have_is_not_there():
    with House(free=2500) as house:  # for two models
        for name in ("c", "d"):
            assert house.answer(name) == name
        assert house.states() == {"a": "unloaded", "c": "ready", "d": "ready", "org/b": "unloaded"}
        assert house.answer() == "a"  # what the user asked for is tried in any case
    with House(found=[one("a"), one("c", size=4000)], free=2500) as house:
        with pytest.raises(OutOfMemory, match=rf"c has {mib(4000)} of weights, {mib(1500)} are free now"):
            house.answer("c")
        assert house.state("a") == "ready" and house.made["c"] == []  # nothing made way in vain
    with House(found=[one("a"), one("c", size=4000)], free=2500, max_bytes=0) as house:
        assert house.answer("c") == "c"


def test_the_model_that_was_asked_for_is_held_to_a_limit_only_if_one_was_given():
    with House(capacity=100) as house:
        assert house.answer() == "a"
    house = House(max_bytes=999)
    house.registry.start()
    with pytest.raises(OutOfMemory, match="--max-resident-mem"):
        house.registry.wait_ready(10)
    assert house.made["a"][0].state == "closed"


def test_where_memory_does_not_suffice_after_all_another_makes_way():
    with House() as house:
        house.errors["c"] = MemoryError("12 MiB are left")
        load = house.load

        def loads_alone(service):
            if service.name == "c" and house.state("a") != "ready":
                house.errors.clear()
            load(service)

        house.load = loads_alone
        assert house.answer("c") == "c"
        assert house.states()["a"] == "unloaded" and [s.state for s in house.made["c"]] == ["closed", "ready"]
        house.errors["d"] = MemoryError("12 MiB are left")
        with pytest.raises(OutOfMemory, match="d could not be loaded: 12 MiB are left"):
            house.answer("d")
        assert house.answer() == "a"


# Unloading


def test_unloading_by_name():
    with House() as house:
        house.answer("c")
        assert house.registry.unload("c").state == "unloaded" and house.made["c"][0].state == "closed"
        assert house.registry.unload("c").state == "unloaded"
        with pytest.raises(ModelNotFound):
            house.registry.unload("gpt-4")
        assert house.state("a") == "ready"


def test_what_is_in_use_is_not_unloaded():
    with House(script=slowly(0.05)) as house:
        stream = house.ask("a")
        with pytest.raises(Busy, match="a is in use by 1 requests"):
            house.registry.unload("a")
        stream.cancel()
        house.hold("c")
        lease = house.registry.lease("c")
        lease.release()
        with pytest.raises(Busy, match="c is loading"):
            house.registry.unload("c")


def test_what_nobody_uses_is_unloaded_after_a_while_and_comes_back():
    with House(idle_s=0.2, script=slowly(0.05, ["x"] * 10)) as house:
        house.answer("a")  # takes longer than the timer
        assert len(house.made["a"]) == 1
        until(lambda: house.state("a") == "unloaded")
        assert house.registry.state == "ready" and house.made["a"][0].state == "closed"
        assert house.answer() == "a" and len(house.made["a"]) == 2


def test_a_request_that_comes_while_a_model_is_being_unloaded_gets_it_back():
    with House() as house:
        house.answer("c")
        service, closing, go = house.made["c"][0], threading.Event(), threading.Event()
        close = service.close

        def slow_close():
            closing.set()
            go.wait(10)
            close()

        service.close = slow_close
        thread = threading.Thread(target=house.registry.unload, args=("c",))
        thread.start()
        assert closing.wait(5) and house.state("c") == "evicting"
        streams = [house.ask("c") for _ in range(3)]
        assert streams[0].next(0.05) is None
        with pytest.raises(Busy):
            house.registry.unload("c")
        go.set()
        thread.join(5)
        assert all(stream.next(10) is not None for stream in streams)
        assert len(house.made["c"]) == 2 and len(service.requests) == 1
        for stream in streams:
            stream.cancel()


def test_requests_and_evictions_at_random_never_meet():
    """Whatever comes in whatever order: every request is answered by its model, and none by one that was closed."""
    with House(max_models=2, idle_s=0.01) as house:
        wrong = []

        def client(seed):
            for i in range(25):
                name = NAMES[(seed * 7 + i * 3) % len(NAMES)]
                try:
                    if house.answer(name) != name:
                        wrong.append(name)
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not wrong
        assert all(resident.users == 0 for resident in house.registry.models.values())


# Closing


def test_closing_ends_loading_waiting_and_running():
    house = House(max_models=2, script=slowly(0.05, ["x"] * 100))
    house.__enter__()
    house.hold("c")
    running, loading = house.ask("a"), house.ask("c")
    assert running.next(10) is not None
    until(lambda: house.made["c"])
    waiting = house.ask("d")  # for room: both places are taken
    house.registry.close()
    house.holds["c"].set()
    assert house.registry.state == "closed"
    until(lambda: house.state("c") == "error")  # the fake one has loaded to the end, and was closed then
    assert all(service.state == "closed" for made in house.made.values() for service in made)
    assert isinstance(waiting.next(5), Failed)
    for stream in (running, loading, waiting):
        stream.cancel()
    with pytest.raises(NotReady, match="shutting down"):
        house.ask()
