"""How one home is run: configs/service.yaml. Nothing here moves a score."""

from __future__ import annotations

from pydantic import Field

from ranker.config import Name, Share, Strict
from ranker.types import SandboxName


class Limits(Strict):
    """What a sandboxed encoder may use. The defaults are the challenge's machine (16 GB GPU, 12 GB RAM)."""

    memory_gb: Share = 12.0
    gpu_memory_gb: Share = 16.0
    cpus: Share = 2.0
    pids: int = Field(default=128, ge=8)
    scratch_mb: int = Field(default=256, ge=1)
    log_kb: int = Field(default=1024, ge=1)
    load_timeout_s: Share = 300.0
    call_timeout_s: Share = 120.0


class ArchiveLimits(Strict):
    """What a ZIP may hold."""

    max_unpacked_bytes: int = Field(default=20_000_000_000, ge=1)
    max_entries: int = Field(default=50_000, ge=1)
    max_ratio: Share = 200.0
    ratio_floor_bytes: int = Field(default=100_000_000, ge=0, description="the ratio is not looked at below this size")
    max_depth: int = Field(default=32, ge=1)
    max_path_length: int = Field(default=240, ge=1, description="UTF-8 bytes of one entry's whole path")


class ReportLimits(Strict):
    """What a technical report may be."""

    max_pages: int = Field(default=6, ge=1)
    max_bytes: int = Field(default=50_000_000, ge=1)


class Service(Strict):
    """How one home is run: configs/service.yaml."""

    benchmark: Name = "mini"
    sandbox: SandboxName = SandboxName.AUTO
    docker_image: str = "ranker-encoder:latest"
    limits: Limits = Limits()
    archive: ArchiveLimits = ArchiveLimits()
    report: ReportLimits = ReportLimits()
    lease_s: Share = Field(
        default=120.0, description="a job whose worker was not heard of for so long is given to another"
    )
    infra_attempts: int = Field(default=5, ge=1, description="attempts of a job that fails by our own fault")
    retry_delay_s: float = Field(default=10.0, ge=0, description="doubled with each attempt")
    cpu_workers: int = Field(default=2, ge=1, description="worker processes on a machine without a GPU")
