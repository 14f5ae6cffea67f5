"""Fixtures for all tests."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["engine", "effort", "attack_world", "ray_cluster", "postgres"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two test processes share the cores; an evaluation in this process may have taken more threads than its share."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
