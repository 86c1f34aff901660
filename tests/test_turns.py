"""Engines take turns in the order in which they ask."""

import threading
import time

from smelt.engine.turns import Turns


def test_one_at_a_time_and_first_come_first_served():
    turns, order, inside = Turns(), [], []

    def work(name):
        with turns:
            inside.append(name)
            assert len(inside) == 1
            order.append(name)
            time.sleep(0.01)
            inside.clear()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    with turns:
        for count, thread in enumerate(threads, 1):
            thread.start()
            while len(turns.waiting) < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(6)) and not turns.taken


def test_two_that_always_want_it_have_it_in_turn():
    turns, order, asking = Turns(), [], {"a", "b"}

    def work(name):
        for _ in range(50):
            with turns:
                while not turns.wanted and len(asking) == 2:
                    time.sleep(0.0001)  # until the other asks
                order.append(name)
        asking.discard(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(order) == 100 and "".join(order) in ("ab" * 50, "ba" * 50)


def test_long_work_lets_others_in_between():
    turns, order = Turns(), []

    def other():
        with turns:
            order.append("other")

    thread = threading.Thread(target=other)
    with turns:
        thread.start()
        while not turns.waiting:
            time.sleep(0.001)
        order.append("first half")
        turns.pass_on()
        order.append("second half")
    thread.join(5)
    assert order == ["first half", "other", "second half"] and not turns.taken


def test_an_error_inside_hands_the_turn_on():
    turns = Turns()
    try:
        with turns:
            raise RuntimeError
    except RuntimeError:
        pass
    assert not turns.taken
