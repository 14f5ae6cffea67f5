"""Fixtures for all tests."""

from __future__ import annotations

import signal
import sys

import pytest

pytest_plugins = ["engine", "effort", "attack_world", "ray_cluster", "postgres"]


def pytest_configure() -> None:
    """A shell without job control starts what runs in its background deaf to Ctrl-C, and so would be all that tests
    start and then interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two test processes share the cores; an evaluation in this process may have taken more threads than its share."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
