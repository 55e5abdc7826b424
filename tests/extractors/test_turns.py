"""One thread at a time at a model, and the next while the first only waits."""

import threading

import pytest

from emi_ray.extractors.turns import Turn, turn_lent


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
