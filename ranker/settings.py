"""How one home is run: configs/service.yaml. Nothing here moves a score."""

from __future__ import annotations

from typing import Literal

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
    run_timeout_s: Share = Field(default=172_800.0, description="all loading and calls of one job together")


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


class BuildPhase(Strict):
    """How a submission's requirements.txt is installed at intake."""

    index_url: str | None = Field(default=None, description="None: the index that pip uses on this machine")
    index_hosts: tuple[str, ...] = Field(
        default=(), description="beside the index itself: where it says that files lie; pip's own default knows"
    )
    allow_source: bool = Field(default=False, description="wheels only, unless true; then code of packages runs")
    max_download_bytes: int = Field(default=20_000_000_000, ge=1)
    max_bytes: int = Field(default=20_000_000_000, ge=1, description="of what is installed, with pip's own files")
    timeout_s: Share = 1800.0


class WeightsPhase(Strict):
    """How an encoder that finds no weights in its ZIP may fetch them, once, at intake."""

    hub_url: str = "https://huggingface.co"
    hub_hosts: tuple[str, ...] = Field(
        default=(
            "us.aws.cdn.hf.co",
            "us.gcp.cdn.hf.co",
            "cdn-lfs.hf.co",
            "cdn-lfs-us-1.hf.co",
            "cdn-lfs-eu-1.hf.co",
            "cdn-lfs.huggingface.co",
            "cas-bridge.xethub.hf.co",
        ),
        description="beside the hub itself: where it says that files lie",
    )
    max_bytes: int = Field(default=20_000_000_000, ge=1, description="carried, and kept")
    timeout_s: Share = 3600.0


class Probes(Strict):
    """How often an encoder is asked again, in the running process, for a clip that it has encoded before."""

    one_in: int = Field(default=500, ge=1, description="clips for each one that is asked for again")
    at_least: int = Field(default=3, ge=0, description="in each stage, if it has as many clips")


class AuditSettings(Strict):
    """How `ranker audit` changes clips, and by how much a score may fall before it says so."""

    clips: int = Field(default=200, ge=1, description="test clips of each task that are asked again")
    fewest_clips: int = Field(default=20, ge=1, description="no verdict is given on fewer")
    shift_ms: tuple[Share, Share] = (3.0, 25.0)
    gain_db: tuple[Share, Share] = (0.5, 1.5)
    allowed_drop: Share = Field(default=0.1, description="of a raw score; see docs/results/audit.md")
    false_alarms: Share = Field(default=0.01, lt=1, description="chance that an honest encoder is suspected at all")


class Service(Strict):
    """How one home is run: configs/service.yaml."""

    benchmark: Name = "mini"
    sandbox: SandboxName = SandboxName.AUTO
    docker_image: str = "ranker-encoder:latest"
    docker_runtime: Literal["runc", "runsc"] | None = Field(default=None, description="None: the engine's own default")
    docker_remap: bool = Field(default=False, description="refuse an engine that does not remap users")
    limits: Limits = Limits()
    archive: ArchiveLimits = ArchiveLimits()
    report: ReportLimits = ReportLimits()
    build: BuildPhase = BuildPhase()
    weights: WeightsPhase = WeightsPhase()
    private_hosts: tuple[str, ...] = Field(
        default=(), description="names that may stand for addresses of a private network: mirrors of one's own"
    )
    probes: Probes = Probes()
    audit: AuditSettings = AuditSettings()
    lease_s: Share = Field(
        default=120.0, description="a job whose worker was not heard of for so long is given to another"
    )
    infra_attempts: int = Field(default=5, ge=1, description="attempts of a job that fails by our own fault")
    killed_attempts: int = Field(
        default=3,
        ge=1,
        description="so many of a job whose encoder was killed, and it was its own doing",
    )
    retry_delay_s: float = Field(default=10.0, ge=0, description="doubled with each attempt")
    cpu_workers: int = Field(default=2, ge=1, description="worker processes on a machine without a GPU")
