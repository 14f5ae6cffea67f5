"""Tries to change itself after its check: new files, changed files and hard links in its own folder."""

from pathlib import Path

import spy

HERE = Path(__file__).parent


def a_new_file():
    (HERE / "remembered").write_text("clip 1 was a dog")
    (HERE / "remembered").unlink()
    return True


def another_encoder():
    file = HERE / "another_size.py"
    file.write_text(file.read_text())
    return True


def a_hard_link():
    (HERE / "linked").hardlink_to(HERE / "honest.py")
    (HERE / "linked").unlink()
    return True


class ChangingEncoder(spy.Spy):
    attempts = (a_new_file, another_encoder, a_hard_link)
