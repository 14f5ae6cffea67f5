"""What was found, and the page that says it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(kw_only=True)
class Findings:
    """Rows of the report. A check holds (True), does not (False), or is a figure with nothing to hold to (None)."""

    checks: list[tuple[str, str, str, bool | None]] = field(default_factory=list)
    drifts: list[tuple[str, ...]] = field(default_factory=list)

    def check(self, what: str, found: str, bound: str = "", ok: bool | None = None) -> None:
        self.checks.append((what, found, bound, ok))
        print({True: "ok  ", False: "FAIL", None: "    "}[ok], what, "|", found, flush=True)

    def drift(self, *cells: str) -> None:
        self.drifts.append(cells)
        print("    ", *cells, sep=" | ", flush=True)

    @property
    def held(self) -> bool:
        return bool(self.checks) and all(ok is not False for *_, ok in self.checks)


def report(found: Findings, recorded: dict[str, Any], *, command: str, commit: str, decoder: str) -> str:
    """The page, as Markdown."""
    spec, replaced = recorded["spec"], ", ".join(recorded["replaced"])
    own = {name: importlib.metadata.version(name) for name in recorded["versions"] if recorded["versions"][name]}
    mark = {True: "yes", False: "**no**", None: ""}
    lines = [
        "# Training and answers, held against XARES-LLM",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}: XARES-LLM {commit}, Python "
        f"{platform.python_version()}, {platform.machine()}, CPU, float32.",
        "",
        "| package | XARES-LLM's process | ours |",
        "|---|---|---|",
        *(
            f"| {name} | {theirs or 'a stand-in'} | {own.get(name, '')} |"
            for name, theirs in recorded["versions"].items()
        ),
        "",
        f"Decoder: {decoder}. Warm-up {spec['warmup_steps']} steps, learning rate {spec['learning_rate']:g}, LoRA",
        "dropout 0 save where said, all else as in its own defaults. The data are small synthetic shards, the encoder",
        "is a fixed function with one scale per dimension. Its own trainer, model and data classes ran; our model,",
        "optimizer, schedule and loop were given their batches and initial weights, in `layout: xares_llm`.",
        "*Masked*: the encoder returns a mask of its frames; *unmasked*: it returns none.",
        *([f"Not installed where it ran, and replaced by stand-ins of this bench: {replaced}."] if replaced else []),
        "",
        "**Parity held.**" if found.held else "**Parity did not hold.**",
        "",
        "| what | found | must be | held |",
        "|---|---|---|---|",
        *(f"| {what} | {text} | {bound} | {mark[ok]} |" for what, text, bound, ok in found.checks),
        "",
        "## What our deviations change",
        "",
        "Each row compares two runs that differ in this point alone, over the same steps: by the training loss at",
        "equal steps, and by what the finished adapters do with held-out clips. These are the first steps on synthetic",
        "clips: they say which deviation is felt at all, and not by how many points a score of the challenge moves.",
        "The reasons are in [protocol.md](../protocol.md), section 6.",
        "",
        "| there | loss, mean difference | largest | held-out loss there | here | answers that differ | besides |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in found.drifts),
        "",
        "Not measured: TF32 (it takes a GPU); K crops instead of ever new ones (it takes many visits to long clips);",
        "checkpoints and scores found under a file name (not a matter of degree).",
        "",
    ]
    return "\n".join(lines)
