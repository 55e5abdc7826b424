"""One thread at a time uses a model, and another may use it while the first only waits."""

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from emi_ray.extractors.turns import Turn, leave_turn, turn_lent, turn_taken, without_others


def test_while_a_thread_waits_for_its_device_the_next_takes_its_turn():
    turn, order, is_waiting, may_go_on = Turn(), [], threading.Event(), threading.Event()

    def first() -> None:
        with turn:
            order.append("first gives work")
            with turn_lent():
                is_waiting.set()
                may_go_on.wait(10)
            order.append("first has results")

    def second() -> None:
        with turn:
            order.append("second gives work")
            may_go_on.set()
            order.append("second goes on")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert is_waiting.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert order == ["first gives work", "second gives work", "second goes on", "first has results"]


def test_an_error_while_waiting_leaves_the_turn_to_others():
    turn = Turn()
    with pytest.raises(RuntimeError, match="device"), turn, turn_lent():
        raise RuntimeError("device lost")
    with turn:
        pass


def test_without_a_turn_waiting_is_plain():
    with turn_lent():
        pass


def test_a_thread_alone_waits_for_those_that_lent_their_turn_and_lets_no_other_in():
    turn, order, is_waiting = Turn(), [], threading.Event()
    may_arrive, is_alone = threading.Event(), threading.Event()

    def first() -> None:
        with turn:
            with turn_lent():
                is_waiting.set()
                may_arrive.wait(10)
            order.append("first leaves")

    def second() -> None:
        with turn:
            may_arrive.set()
            with without_others() as had_others:
                order.append(f"second is alone, others: {had_others}")
                is_alone.set()
                with turn_lent():
                    time.sleep(0.3)
                order.append("second goes on")
            with without_others() as had_others:
                order.append(f"others: {had_others}")

    def third() -> None:
        assert is_alone.wait(10)
        with turn:
            order.append("third")

    threads = [threading.Thread(target=work) for work in (first, second, third)]
    threads[0].start()
    assert is_waiting.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert order[:3] == ["first leaves", "second is alone, others: True", "second goes on"]
    assert sorted(order[3:]) == ["others: False", "third"]


def test_without_a_turn_nobody_is_waited_for():
    with without_others() as had_others:
        assert not had_others


def run_together(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"


def test_a_thread_that_left_its_turn_does_not_queue_for_it_again_unless_it_has_more_work():
    turn, order, has_left, second_holds, has_results = Turn(), [], *(threading.Event() for _ in range(3))

    def first() -> None:
        with turn:
            with turn_taken():
                leave_turn()
                has_left.set()
                assert second_holds.wait(10)
                order.append("first has results")
            has_results.set()
            with turn_taken():
                order.append("first has the turn again")

    def second() -> None:
        assert has_left.wait(10)
        with turn:
            second_holds.set()
            assert has_results.wait(10)
            time.sleep(0.1)
            order.append("second leaves")

    run_together(first, second)
    assert order == ["first has results", "second leaves", "first has the turn again"]


def test_a_thread_alone_waits_until_the_others_have_freed_their_memory():
    turn, order, has_left = Turn(), [], threading.Event()

    def first() -> None:
        with turn:
            with turn_taken():
                leave_turn()
                has_left.set()
                time.sleep(0.2)
                order.append("first has results")
            order.append("first has freed its memory")

    def second() -> None:
        assert has_left.wait(10)
        with turn, without_others() as had_others:
            order.append(f"others: {had_others}")

    run_together(first, second)
    assert order[0] == "first has results"
    assert sorted(order[1:]) == ["first has freed its memory", "others: True"]


def test_threads_that_run_out_of_memory_at_once_continue_one_after_another():
    """All have lent their turn when the first runs out of memory; each then works on in halves."""
    turn, done, have_lent = Turn(), [], threading.Barrier(4)

    def work(number: int) -> None:
        with turn:
            with turn_taken(), turn_lent():
                have_lent.wait(10)
                # here the memory runs out
            with without_others():
                for _ in range(2):
                    with turn_taken():
                        leave_turn()
                        time.sleep(0.01)
                with without_others() as had_others:  # and here again
                    assert not had_others
                    with turn_taken():
                        leave_turn()
            done.append(number)
        with turn:
            pass

    run_together(*(partial(work, number) for number in range(4)))
    assert sorted(done) == [0, 1, 2, 3]


def launch_and_wait(turn: Turn, has_left: threading.Event, order: list[str]) -> None:
    """Leave the turn at once, as a thread does that has launched its work, and have the results later."""
    with turn, turn_taken():
        leave_turn()
        has_left.set()
        time.sleep(0.2)
        order.append("first has results")


def test_a_thread_alone_waits_for_those_that_use_other_models():
    """The models of a process share the memory of its GPU."""
    vision, audio, order = Turn(), Turn(), []
    has_left, is_alone = threading.Event(), threading.Event()

    def second() -> None:
        assert has_left.wait(10)
        with audio, without_others() as had_others:
            order.append(f"others: {had_others}")
            is_alone.set()
            time.sleep(0.2)
            order.append("second has results")

    def third() -> None:
        assert is_alone.wait(10)
        with vision:
            order.append("third has the turn")

    run_together(partial(launch_and_wait, vision, has_left, order), second, third)
    assert order == ["first has results", "others: True", "second has results", "third has the turn"]


def test_threads_of_two_models_that_want_to_be_alone_are_so_one_after_the_other():
    order: list[str] = []
    both_hold = threading.Barrier(2)

    def work(turn: Turn, name: str) -> None:
        with turn:
            both_hold.wait(10)
            with without_others() as had_others:
                order.append(name)
                time.sleep(0.1)
                order.append(name)
                assert had_others

    run_together(partial(work, Turn(), "vision"), partial(work, Turn(), "audio"))
    assert order in (["vision", "vision", "audio", "audio"], ["audio", "audio", "vision", "vision"])


def test_a_turn_that_is_not_lent_keeps_other_threads_out():
    turn, order = Turn(may_lend=False), []
    holds = threading.Event()

    def first() -> None:
        with turn:
            holds.set()
            with turn_lent():
                time.sleep(0.2)
            order.append("first has results")

    def second() -> None:
        assert holds.wait(10)
        with turn:
            order.append("second has the turn")

    run_together(first, second)
    assert order == ["first has results", "second has the turn"]


def test_a_thread_without_a_turn_is_alone_too():
    turn, order, has_left = Turn(), [], threading.Event()

    def second() -> None:
        assert has_left.wait(10)
        with without_others() as had_others:
            order.append(f"others: {had_others}")

    run_together(partial(launch_and_wait, turn, has_left, order), second)
    assert order == ["first has results", "others: True"]
