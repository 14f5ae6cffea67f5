"""Fixtures for all tests."""

from __future__ import annotations

import gc
import signal
import sys

import pytest

pytest_plugins = ["engine", "effort", "attack_world", "ray_cluster", "postgres"]


def pytest_configure() -> None:
    """A shell without job control starts what runs in its background deaf to Ctrl-C, and so would be all that tests
    start and then interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # imports make nothing that it could collect, and it would walk through all of them again and again


def pytest_collection_finish() -> None:
    """Everything is imported."""
    gc.enable()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two test processes share the cores; an evaluation in this process may have taken more threads than its share."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
