"""What is made ahead of its use: in order, as far ahead as said, and with errors where they belong."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from ranker.lalm.ahead import made_ahead


def test_made_in_order_by_another_thread() -> None:
    """Every number once, in order; never by the thread that uses it, nor by two at a time."""
    makers: list[int] = []

    def make(number: int) -> int:
        makers.append(threading.get_ident())
        return number * number

    found = list(made_ahead(make, range(7)))
    assert [value for value, _ in found] == [0, 1, 4, 9, 16, 25, 36]
    assert all(waited >= 0 for _, waited in found)
    assert len(set(makers)) == 1
    assert makers[0] != threading.get_ident()


@pytest.mark.parametrize("depth", [1, 3])
def test_made_as_far_ahead_as_said(depth: int) -> None:
    """While the first is used, `depth` others are made and no more: memory holds no more batches than that."""
    begun = threading.Semaphore(0)
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        begun.release()
        return number

    with closing(made_ahead(make, range(10), depth=depth)) as coming:
        next(coming)
        for _ in range(depth + 1):
            assert begun.acquire(timeout=60)
    assert made == list(range(depth + 1))


def test_error_comes_where_its_result_would_have_come() -> None:
    """What was made before an error is used before it is raised; nothing after it is."""

    def make(number: int) -> int:
        return 6 // (2 - number)

    coming = made_ahead(make, range(5))
    assert [next(coming)[0], next(coming)[0]] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(coming)
    with pytest.raises(StopIteration):
        next(coming)


def test_nothing_of_nothing() -> None:
    """A run that has no steps left makes no batch."""
    assert list(made_ahead(lambda number: number, range(0))) == []
