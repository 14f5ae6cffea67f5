"""Tries to patch the libraries that others import: sitecustomize.py, a .pth file and a module in the environment."""

from pathlib import Path

import spy

LIBRARY = Path(spy.KNOWN["library"])


def written(name):
    (LIBRARY / name).write_text("import os\n")
    (LIBRARY / name).unlink()
    return True


def sitecustomize():
    return written("sitecustomize.py")


def path_file():
    return written("evil.pth")


def a_module():
    file = LIBRARY / "jiwer.py"
    return file.write_text(file.read_text() + "# patched\n")


class PatchingEncoder(spy.Spy):
    attempts = (sitecustomize, path_file, a_module)
