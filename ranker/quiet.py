"""Models are loaded in silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and remarks (unused layers) from tearing the job's own display."""
    from transformers.utils import logging

    log: Any = logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        log.enable_progress_bar()
