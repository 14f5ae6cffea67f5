"""How one home is run: configs/service.yaml. Nothing here moves a score but `cuda_graphs`, which conditions name."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from ranker.config import Name, Share, Strict
from ranker.deadline import Deadline
from ranker.types import JobKind, Login, SandboxName, Tls


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
    min_characters: int = Field(default=100, ge=0, description="of text that can be extracted: a scan has none")
    cpu_s: int = Field(default=20, ge=1, description="processor time that reading it may take")
    wall_s: Share = 120.0
    memory_mb: int = Field(default=1024, ge=128)


class LinkSettings(Strict):
    """How a file is fetched that a message named by its address only."""

    max_bytes: int = Field(default=20_000_000_000, ge=1)
    timeout_s: Share = Field(default=7200.0, description="of one command; the next one goes on where it was")
    idle_timeout_s: Share = Field(default=60.0, description="without a byte; then the server is asked again")
    allow_http: bool = Field(default=False, description="also addresses without TLS")


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


class MailSettings(Strict):
    """How messages are read, whichever way they come."""

    own_servers: tuple[str, ...] = Field(
        default=(),
        description="hosts whose Received header tells when a message arrived, as they write themselves; `*` may stand",
    )
    max_message_bytes: int = Field(default=2_000_000_000, ge=1, description="a longer one is kept, but not looked into")


class Imap(Strict):
    """The mailbox that `ranker inbox` reads. Its password stands in no YAML file: see `ranker.credentials`."""

    host: str = Field(min_length=1)
    port: int = Field(default=993, ge=1, le=65_535)
    tls: Tls = Tls.IMPLICIT
    ca_file: Path | None = Field(default=None, description="certificates to trust; None: those of this machine")
    user: str = Field(min_length=1)
    login: Login = Login.PASSWORD
    secret_file: Path | None = Field(default=None, description="mode 0600; None: RANKER_IMAP_SECRET")
    folder: str = Field(default="INBOX", min_length=1)
    done_folder: str | None = Field(default=None, description="None: handled messages stay, and bear `done_flag`")
    done_flag: str = Field(default="RankerTaken", pattern=r"^[A-Za-z$][A-Za-z0-9_]*$")
    since: date | None = Field(default=None, description="older messages are none of ours; by the server's own date")
    poll_s: Share = Field(default=60.0, description="between two looks of --watch")
    timeout_s: Share = 60.0


class Smtp(Strict):
    """How answers leave. Without `host` they are drafted only."""

    model_config = ConfigDict(populate_by_name=True)

    sender: str = Field(alias="from", min_length=3, description="`Name <address>`")
    host: str | None = None
    port: int = Field(default=587, ge=1, le=65_535)
    tls: Tls = Tls.STARTTLS
    ca_file: Path | None = Field(default=None, description="certificates to trust; None: those of this machine")
    user: str | None = Field(default=None, description="None: the server asks for no login")
    login: Login = Login.PASSWORD
    secret_file: Path | None = Field(default=None, description="mode 0600; None: RANKER_SMTP_SECRET")
    timeout_s: Share = 60.0
    own_lists: tuple[str, ...] = Field(
        default=(), description="List-Ids of lists that are our address: who writes over them is answered, too"
    )


class Rules(Strict):
    """What the challenge asks of a submission beside its code. A fresh home asks for nothing."""

    registration: bool = Field(default=False, description="the sender belongs to a team that was imported")
    one_team_per_person: bool = False
    deadline: str | None = Field(default=None, description="with its zone: 2026-02-12T23:59 AoE")
    grace_minutes: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    report: bool = Field(default=False, description="a technical report, within the limits of `report:`")
    disclosure: bool = Field(default=False, description="a human found in the report what the encoder was trained on")
    one_model_per_team: bool = Field(default=False, description="the last valid one counts")

    @field_validator("deadline", mode="before")
    @classmethod
    def _with_zone(cls, value: object) -> object:
        """YAML reads some times by itself; those that it takes for a time without a zone are none."""
        written = value.isoformat() if isinstance(value, date) else value  # a datetime is a date, too
        return Deadline.parse(written).text if isinstance(written, str) else written

    @property
    def closes(self) -> Deadline | None:
        """The deadline, if there is one."""
        return None if self.deadline is None else Deadline.parse(self.deadline)


class DatabaseSettings(Strict):
    """Where the database is. Its password stands in no YAML file: see `ranker.db.place`."""

    url: str | None = Field(
        default=None,
        description="postgresql+psycopg://USER@HOST/DATABASE; None: ranker.db of the home; RANKER_DATABASE goes before",
    )
    secret_file: Path | None = Field(
        default=None, description="mode 0600, holds the password; None: RANKER_DATABASE_SECRET, or ~/.pgpass"
    )


class ClusterSettings(Strict):
    """How jobs run on the machines of a Ray cluster; see docs/cluster.md. Paths are the same on every node."""

    address: str = Field(default="auto", min_length=1, description="auto, or HOST:PORT; --address goes before it")
    cpus_per_job: int | None = Field(default=None, ge=1, description="None: threads as configured, or with GPUs, 2")
    shared_folder: Path | None = Field(default=None, description="None: files travel through the object store")
    node_folder: Path | None = Field(
        default=None, description="where nodes keep files, `{node}` is a Ray node's id; None: below the cache of models"
    )
    data_folder: Path | None = Field(
        default=None, description="holds <benchmark>/ on every node already; None: the shards travel, once to each node"
    )
    node_cache_gb: Share = Field(default=500.0, description="of what came to a node, the least recently used goes")
    max_result_gb: Share = Field(default=20.0, description="of files that one attempt may send back")
    start_timeout_s: Share = Field(default=600.0, description="until a placed job must have been heard of")
    reconnect_s: Share = Field(default=300.0, description="how long the head of a cluster is waited for")


class PublishSettings(Strict):
    """Under which names teams are published, and what the gate lets stand; see docs/operator.md, Publishing."""

    anonymous: bool = Field(default=False, description="every team under a pseudonym, the benchmark's baselines aside")
    anonymous_teams: tuple[str, ...] = Field(default=(), description="these alone, by their names")
    allow: tuple[str, ...] = Field(default=(), description="addresses, paths and words that may be published")


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
    rules: Rules = Rules()
    publish: PublishSettings = PublishSettings()
    links: LinkSettings = LinkSettings()
    build: BuildPhase = BuildPhase()
    weights: WeightsPhase = WeightsPhase()
    private_hosts: tuple[str, ...] = Field(
        default=(), description="names that may stand for addresses of a private network: mirrors of one's own"
    )
    probes: Probes = Probes()
    audit: AuditSettings = AuditSettings()
    mail: MailSettings = MailSettings()
    imap: Imap | None = None
    smtp: Smtp | None = None
    shared_features_gb: Share = Field(
        default=20.0, description="of features that the jobs of a submission keep for each other; 0: none"
    )
    lease_s: Share = Field(
        default=120.0, description="a job whose worker was not heard of for so long is given to another"
    )
    stall_s: Share = Field(
        default=1800.0,
        description="in which a job may show no step, clip or answer, beside what the time-outs above give it",
    )
    infra_attempts: int = Field(default=5, ge=1, description="attempts of a job that fails by our own fault")
    killed_attempts: int = Field(
        default=3,
        ge=1,
        description="so many of a job whose encoder was killed, and it was its own doing",
    )
    retry_delay_s: float = Field(default=10.0, ge=0, description="doubled with each attempt")
    cpu_workers: int = Field(default=2, ge=1, description="worker processes on a machine without a GPU")
    workers_per_gpu: int | None = Field(
        default=None, ge=1, le=64, description="jobs at the same time; None: as its free memory has room for"
    )
    gpu_job_memory_gb: Share = Field(default=38.0, description="GiB that one job needs, its trainer and its encoder")
    cuda_graphs: bool = Field(default=False, description="fixed shapes on a GPU; part of conditions")
    cluster: ClusterSettings = ClusterSettings()
    database: DatabaseSettings = DatabaseSettings()

    def silence_s(self, kind: JobKind) -> float:
        """For how many seconds a job of this kind may show nothing; then it hangs, and its process ends itself.

        `stall_s`, and what the longest silent step may take by its own time-out: loading and asking an encoder, and in
        a check what is installed and fetched for it.
        """
        allowed = self.limits.load_timeout_s + self.limits.call_timeout_s
        if kind is JobKind.CHECK:
            allowed += self.build.timeout_s + self.weights.timeout_s + self.report.wall_s
        return self.stall_s + allowed
