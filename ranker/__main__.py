"""`python -m ranker`, and where the command `ranker` begins: a Ctrl-C while it still loads is no traceback either."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line and run it."""
    try:
        from ranker.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("ranker: stopped; the same command goes on from here\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
