"""Threads that engines use again."""

import threading

from smelt.engine.workers import Job, Workers


def run(workers, function):
    job = Job(function)
    job.started = True
    workers.give(job)
    return job


def test_a_thread_is_used_again_once_it_is_free():
    workers, idents = Workers(), []
    for _ in range(3):
        run(workers, lambda: idents.append(threading.get_ident())).join(5)
    assert len(set(idents)) == 1


def test_those_that_run_at_once_have_threads_of_their_own():
    workers, go, idents = Workers(), threading.Event(), []

    def work():
        idents.append(threading.get_ident())
        go.wait(5)

    jobs = [run(workers, work) for _ in range(3)]
    while len(idents) < 3:
        pass
    assert all(job.is_alive() for job in jobs) and {job.ident for job in jobs} == set(idents) and len(set(idents)) == 3
    go.set()
    for job in jobs:
        job.join(5)
    assert not any(job.is_alive() for job in jobs) and len(workers.idle) == 3


def test_a_job_that_raises_does_not_take_its_thread_with_it(caplog):
    workers, done = Workers(), []
    run(workers, lambda: 1 / 0).join(5)
    run(workers, lambda: done.append(1)).join(5)
    assert done and "ZeroDivisionError" in caplog.text


def test_what_a_finished_job_held_is_let_go():
    class Large:
        pass

    import weakref

    large = Large()
    held = weakref.ref(large)
    job = run(Workers(), lambda large=large: None)
    job.join(5)
    del large
    assert held() is None and not job.is_alive()


def test_a_job_that_was_not_started_is_not_alive():
    assert not Job(lambda: None).is_alive()
