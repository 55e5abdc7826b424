"""One thread at a time uses a model, and another may use it while the first only waits."""

import threading
import time

import pytest

from emi_ray.extractors.turns import Turn, turn_lent, without_others


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
