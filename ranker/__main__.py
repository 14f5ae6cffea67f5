"""`python -m ranker` is the command `ranker`."""

from ranker.cli import main

if __name__ == "__main__":
    main()
