"""Drawing ahead changes when a batch is drawn, and nothing else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from core import make_tasks
from core.tasks.ahead import ITERATIONS_AHEAD, DrawnAhead


def sources(seeds=(3, 1, 2)):
    return {seed: make_tasks("synthetic", points=5, seed=seed) for seed in seeds}


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["caller comes early", "caller comes late"])
def test_batches_are_those_of_the_iterations_in_the_order_of_the_sources(pause):
    with DrawnAhead(sources(), 2, start=7) as batches:
        for iteration in range(7, 12):
            time.sleep(pause)
            groups = (3, 1, 2), (2, 3)
            for group, joined in zip(groups, batches.take(*groups), strict=True):
                assert joined.num_tasks == 2 * len(group)
                for place, seed in enumerate(group):
                    expected = make_tasks("synthetic", points=5, seed=seed).sample("train", 2, iteration)
                    assert torch.equal(joined[2 * place : 2 * place + 2].support_x, expected.support_x)


def test_nothing_is_drawn_of_the_end_and_after_it():
    source, drawn = sources([0])[0], []
    draw = source.draw
    source.draw = lambda *given: (drawn.append(given[-1]), draw(*given))[-1]
    with DrawnAhead({0: source}, 1, start=3, stop=6) as batches:
        for _ in range(3):
            batches.take([0])
    assert sorted(drawn) == [3, 4, 5]


def test_a_caller_who_would_wait_draws_what_comes_next():
    source, begun, next_is_drawn, waited = sources([0])[0], threading.Event(), threading.Event(), []
    draw = source.draw

    def slow(split, num_tasks, iteration):
        if iteration == 0:
            begun.set()
            waited.append(next_is_drawn.wait(60))  # in the thread, which so has not begun the next
        else:
            next_is_drawn.set()
        return draw(split, num_tasks, iteration)

    source.draw = slow
    with DrawnAhead({0: source}, 1) as batches:
        assert begun.wait(60)
        batches.take([0])
    assert waited == [True]


def test_an_error_of_drawing_comes_in_its_turn():
    source, begun, has_failed = sources([0])[0], threading.Event(), threading.Event()
    draw = source.draw

    def failing(split, num_tasks, iteration):
        if iteration == 0:
            begun.set()
            assert has_failed.wait(60)
        if iteration == 1:
            has_failed.set()
            raise ZeroDivisionError
        return draw(split, num_tasks, iteration)

    source.draw = failing
    with DrawnAhead({0: source}, 1) as batches:
        assert begun.wait(60)
        batches.take([0])
        with pytest.raises(ZeroDivisionError):
            batches.take([0])


def test_an_error_of_drawing_reaches_the_caller_and_the_thread_ends():
    failing = sources()
    failing[1].draw = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError), DrawnAhead(failing, 1) as batches:
        batches.take([1])
    assert not any(thread.is_alive() for thread in batches._thread._threads)


def test_leaving_does_not_wait_for_what_nobody_will_use():
    slow = sources(range(50))
    drawn = []
    for source in slow.values():
        draw = source.draw
        source.draw = lambda *arguments, draw=draw: (drawn.append(1), time.sleep(0.1), draw(*arguments))[-1]
    with DrawnAhead(slow, 1) as batches:
        pass
    batches._thread.shutdown(wait=True)
    assert len(drawn) < len(slow) / 2


def test_drawing_has_one_thread_and_leaves_others_theirs():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with DrawnAhead(sources(), 1) as batches:
            assert batches._thread.submit(torch.get_num_threads).result() == 1
            assert torch.get_num_threads() == 2
            with ThreadPoolExecutor(1) as another:
                assert another.submit(torch.get_num_threads).result() == 2
            seen = []
            for source in batches._sources.values():
                draw = source.draw
                source.draw = lambda *given, draw=draw: (seen.append(torch.get_num_threads()), draw(*given))[-1]
            for _ in range(5):
                batches.take([3])
            assert set(seen) == {1}  # whichever thread drew
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_nothing_more_is_drawn_of_sources_that_are_left_out():
    all_of_them, drawn = sources(), []
    for seed, source in all_of_them.items():
        draw = source.draw
        source.draw = lambda *given, draw=draw, seed=seed: (drawn.append((seed, given[-1])), draw(*given))[-1]
    with DrawnAhead(all_of_them, 1) as batches:
        batches.take([1, 2, 3])
        batches.only({2})
        for _ in range(2 * ITERATIONS_AHEAD):
            batches.take([2])
    assert {index for seed, index in drawn if seed != 2} <= set(range(1 + ITERATIONS_AHEAD))
    assert set(range(1 + 2 * ITERATIONS_AHEAD)) <= {index for seed, index in drawn if seed == 2}
