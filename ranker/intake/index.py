"""Which package index submissions' requirements come from: the configured one, else the one that pip uses here."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass

from ranker.errors import MissingError
from ranker.settings import BuildPhase

# In the order in which pip itself lets one count more than the other.
_SETTINGS = (":env:.index-url", "install.index-url", "global.index-url")
# pip's own default has no public name. It is asked in a process of its own: what pip imports is no business of ours.
_DEFAULT = "from pip._internal.models.index import PyPI; print(PyPI.simple_url, PyPI.file_storage_domain)"


@dataclass(frozen=True, kw_only=True)
class PackageIndex:
    """Address of a package index, and the hosts beside it that its files may lie on, HOST or HOST:PORT."""

    url: str
    hosts: tuple[str, ...]


def index_of(phase: BuildPhase) -> PackageIndex:
    """The index of the build phase. Without `index_url`: PIP_INDEX_URL, pip's configuration, or pip's own default, of
    which pip also knows where its files lie. Raises MissingError if pip does not answer.
    """
    if phase.index_url is not None:
        return PackageIndex(url=phase.index_url, hosts=phase.index_hosts)
    configured = dict(line.split("=", 1) for line in _asked("-m", "pip", "config", "list").splitlines() if "=" in line)
    for name in _SETTINGS:
        if name in configured:
            return PackageIndex(url=str(ast.literal_eval(configured[name])), hosts=phase.index_hosts)
    url, files = _asked("-c", _DEFAULT).split()
    return PackageIndex(url=url, hosts=(*phase.index_hosts, files))


def _asked(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise MissingError(
            f"pip does not say which package index it uses ({said}); give build.index_url in configs/service.yaml"
        )
    return done.stdout
