"""One thread at a time uses a model, and another may use it while the first only waits."""

import threading
import time

import pytest

from emi_ray.extractors.turns import Turn, turn_left, turn_lent, turn_taken, without_others


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


def test_a_thread_that_left_its_turn_does_not_queue_for_it_again_unless_it_has_more_work():
    turn, order, is_waiting, may_arrive = Turn(), [], threading.Event(), threading.Event()

    def first() -> None:
        with turn:
            with turn_left():
                is_waiting.set()
                may_arrive.wait(10)
            order.append("first has results")
            has_results.set()
            turn_taken()
            order.append("first has the turn again")

    has_results = threading.Event()

    def second() -> None:
        with turn:
            may_arrive.set()
            assert has_results.wait(10)  # although this thread holds the turn
            time.sleep(0.1)
            order.append("second leaves")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert is_waiting.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert order == ["first has results", "second leaves", "first has the turn again"]


def test_a_thread_alone_waits_for_the_work_of_those_that_left_and_may_leave_too():
    turn, order, is_waiting, may_arrive = Turn(), [], threading.Event(), threading.Event()

    def first() -> None:
        with turn, turn_left():
            is_waiting.set()
            may_arrive.wait(10)
            order.append("first has results")

    def second() -> None:
        with turn:
            threading.Timer(0.1, may_arrive.set).start()
            with without_others() as had_others:
                order.append(f"others: {had_others}")
                with turn_left():
                    pass
                turn_taken()  # for the other half of the batch
                with turn_left():
                    pass
        with turn:
            order.append("free")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert is_waiting.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert order == ["first has results", "others: True", "free"]


def test_several_threads_that_run_out_of_memory_continue_one_after_another():
    turn, done = Turn(), []

    def work(number: int) -> None:
        with turn, without_others():
            for _ in range(3):
                turn_taken()
                with turn_left():
                    time.sleep(0.01)
            done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(done) == [0, 1, 2, 3, 4]
