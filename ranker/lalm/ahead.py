"""Work for the next steps, done by a thread while this one computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def made_ahead(make: Callable[[int], Made], numbers: Iterable[int], *, depth: int = 2) -> Generator[tuple[Made, float]]:
    """`make(number)` of each number, in order and one at a time, up to `depth` ahead; with the seconds it was waited
    for.

    What `make` raises is raised where its result would have come. Close the iterator to stop early: it waits for the
    call in progress and begins no other.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as maker:
        pending: deque[Future[Made]] = deque()
        try:
            for number in numbers:
                pending.append(maker.submit(make, number))
                if len(pending) > depth:
                    yield _awaited(pending.popleft())
            while pending:
                yield _awaited(pending.popleft())
        finally:
            for each in pending:
                each.cancel()


def _awaited(result: Future[Made]) -> tuple[Made, float]:
    started = time.perf_counter()
    return result.result(), time.perf_counter() - started
