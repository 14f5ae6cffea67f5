"""Fixtures for all tests."""

pytest_plugins = ["engine", "effort"]
