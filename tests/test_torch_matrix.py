"""The encoder server under several versions of torch: teams bring their own. `make test-torch` names the interpreters.

RANKER_TORCH_PYTHONS is a list of interpreters, separated by colons, each with torch and numpy of its own; ours is tried
always. With two or more versions, docs/results/torch_matrix.md is written anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import contract_cases
import numpy as np
import pytest

from ranker.sandbox.base import EncoderSpec, Features
from ranker.sandbox.check import CheckResult, check_encoder, contract_violations, probe_clip
from ranker.sandbox.none import NoSandbox
from ranker.settings import Limits
from ranker.types import EncoderSource

VARIABLE = "RANKER_TORCH_PYTHONS"
PYTHONS = [Path(sys.executable), *(Path(each) for each in os.environ.get(VARIABLE, "").split(":") if each)]
ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "contract_sentences.txt"
REPORT = ROOT / "docs" / "results" / "torch_matrix.md"
LIMITS = Limits(load_timeout_s=60, call_timeout_s=60)
# Encoders that compute something, of torch and the standard library alone.
NET = """
import torch


class NetEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.output_dim = 32
        self.front = torch.nn.Conv1d(1, 32, 400, stride=320)
        self.attended = torch.nn.Linear(32, 96)
        self.norm = torch.nn.LayerNorm(32)

    def forward(self, audio, mask=None):
        x = torch.nn.functional.gelu(self.front(audio[:, None])).transpose(1, 2)
        kept = None if mask is None else mask[:, 200::320][:, : x.shape[1]]
        query, key, value = self.attended(x)[:, None].chunk(3, dim=-1)
        seen = None if kept is None else kept[:, None, None].bool()
        heard = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.norm(x + heard[:, 0]), kept
"""
SAMPLES = ("net", "logmel", "noise") if len(PYTHONS) > 1 else ("net",)
CLIPS_S = (0.1, 1.0, 3.7)


@dataclass
class Tried:
    """What one interpreter gave."""

    python: str = ""
    torch: str = ""
    sentences: str = ""
    features: dict[str, list[Features]] = field(default_factory=dict)
    checks: dict[str, CheckResult] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    contract_cases.write(folder)
    (folder / "net.py").write_text(NET)
    for name in ("logmel", "noise"):
        source = ROOT / "submissions" / "examples" / name / f"{name}_encoder.py"
        (folder / f"{name}.py").write_text(source.read_text())
    return folder


def spec(tree: Path, file: str) -> EncoderSpec:
    return EncoderSpec(tree=tree, source=EncoderSource(root=".", module=file), threads=1)


@pytest.fixture(scope="module")
def tried(tree: Path) -> Iterator[dict[Path, Tried]]:
    """Filled by the tests, one interpreter after the other; reported in the end."""
    found = {python: Tried() for python in PYTHONS}
    yield found
    complete = [one for one in found.values() if one.checks]
    if len({one.torch for one in complete}) > 1:
        REPORT.write_text("\n".join(report(complete)) + "\n", encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parent.parent.name)
def test_every_case_gets_its_sentences(python: Path, tree: Path, tried: dict[Path, Tried]) -> None:
    """One small encoder for each way to break the contract, and what its team reads, word for word: torch's version
    must not show. Those that keep it get no sentence.
    """
    files = contract_cases.write(tree)
    lines, without = [], set()
    with NoSandbox(python=python).connect(spec(tree, "net.py"), LIMITS) as client:
        for name, file in files.items():
            violations = contract_violations(client, EncoderSource(root=".", module=file))
            lines += [name, *(f"    {violation}" for violation in violations)]
            without |= set() if violations else {name}
        tried[python].python, tried[python].torch = client.greeting.python, client.greeting.torch
    assert without == contract_cases.right()
    assert len(files) > 90
    tried[python].sentences = "\n".join(lines) + "\n"
    assert tried[python].sentences == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parent.parent.name)
def test_sound_encoders_pass_the_whole_check(python: Path, name: str, tree: Path, tried: dict[Path, Tried]) -> None:
    """Two fresh processes, all probes, nothing refused; what was measured is kept for the report."""
    sandbox = NoSandbox(python=python)
    result = check_encoder(sandbox, spec(tree, f"{name}.py"), LIMITS)
    assert result.batch_invariant
    assert result.none_mask_equal
    assert result.refused_clips == {}
    assert (result.peak_memory_mb or 0) > 50
    assert result.torch == tried[python].torch
    with sandbox.start(spec(tree, f"{name}.py"), LIMITS) as encoder:
        tried[python].features[name] = [encoder.encode([probe_clip(s, 1)])[0] for s in CLIPS_S]
    tried[python].checks[name] = result


def test_features_agree_between_versions(tried: dict[Path, Tried]) -> None:
    """Each version's features against ours, within rounding; where there is one version only, this is skipped, and
    says so.
    """
    own, *others = tried.values()
    if not {one.torch for one in others} - {own.torch}:
        pytest.skip(f"the encoder server was tried under torch {own.torch} alone; {VARIABLE} names no other version")
    for one in others:
        for name in SAMPLES:
            assert difference(own, one, name) < 1e-4, (one.torch, name)


def difference(own: Tried, other: Tried, name: str) -> float:
    """The largest difference of two versions' features, as a share of the largest feature."""
    pairs = list(zip(own.features[name], other.features[name], strict=True))
    scale = max(float(np.abs(one).max()) for one, _ in pairs)
    return max(float(np.abs(one - two).max()) for one, two in pairs) / scale


def report(complete: list[Tried]) -> Iterator[str]:
    own = complete[0]
    cases = len(contract_cases.sources())
    yield "# The encoder server under several versions of torch"
    yield ""
    yield f"Written by `make test-torch` on {datetime.now(UTC):%Y-%m-%d}, on a CPU with one thread, sandbox `none`."
    yield ""
    yield (
        f"{cases} small encoders (`tests/contract_cases.py`) were loaded and called, {len(contract_cases.right())} of "
        "which keep the contract: under every version, each got the same sentences, or none."
    )
    yield "The encoders below passed the whole check. The largest difference between their features and those under the"
    yield "first version is given as a share of the largest feature."
    yield ""
    yield "| torch | Python | cases | encoder | difference | padding-invariant | bits repeat | peak memory, MB |"
    yield "| --- | --- | ---: | --- | ---: | --- | --- | ---: |"
    for one in complete:
        for name in SAMPLES:
            check = one.checks[name]
            gap = "" if one is own else f"{difference(own, one, name):.1e}"
            yield (
                f"| {one.torch} | {one.python} | {cases} | {name} | {gap} | "
                f"{'yes' if check.padding_invariant else 'no'} | {'yes' if check.bit_identical else 'no'} | "
                f"{check.peak_memory_mb:.0f} |"
            )
