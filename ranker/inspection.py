"""What a benchmark's shards hold, task by task, and what in them would spoil a score.

Everything comes from the shards' indexes (`ranker.data.index`), in which each clip was decoded once: a second look is
quick. One shard's index is in memory at a time, and of all clips two digests of 16 bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from ranker.config import Benchmark, Task, TestSplit, TrainSplit
from ranker.data.index import Defect, Entry, index_of, index_shards
from ranker.data.shards import clip_of, shard_paths
from ranker.errors import OrganizerError, UsageError
from ranker.metrics.normalize import normalize, split_labels
from ranker.types import Concern, DefectKind, MetricName

_SHOWN = 5
_LABELLED = frozenset({MetricName.ACCURACY, MetricName.MAP})


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One thing that someone should know, in a sentence, and how grave it is."""

    concern: Concern
    text: str


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One side of a task. `pairs` counts references; `labels` is None where answers are no labels.

    `duplicates` are clips whose samples an earlier clip of this side has, `contradictions` those of them that have
    other labels. `too_long` clips are longer than the recipe's `max_audio_s`.
    """

    shards: int
    clips: int
    pairs: int
    hours: float
    longest_s: float
    longest_clip: str | None
    sample_rates_hz: Mapping[int, int]
    codecs: Mapping[str, int]
    labels: int | None
    empty_references: int
    too_long: int
    duplicates: int
    contradictions: int
    defects: tuple[Defect, ...]
    unreadable_shards: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A test clip whose samples are those of a training clip of the same track."""

    test_clip: str
    training_task: str
    training_clip: str
    same_bytes: bool


@dataclass(frozen=True, kw_only=True)
class TaskInspection:
    """All about one task's data. `overlap` has one entry per test clip and training task; `same_names` counts test
    clips that are called like a training clip, which is a hint and no more.
    """

    track: str
    task: str
    metric: MetricName
    train: SplitFacts | None
    test: SplitFacts
    labels_expected: int | None
    labels_found: int | None
    labels_untested: tuple[str, ...]
    labels_untrained: tuple[str, ...]
    overlap: tuple[Heard, ...]
    same_names: int
    remarks: tuple[Remark, ...]

    @property
    def is_spoilt(self) -> bool:
        """Whether a score of this task would not be what it says."""
        return any(remark.concern is Concern.SPOILS for remark in self.remarks)


def inspect(
    benchmark: Benchmark,
    root: Path,
    *,
    task: str | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[TaskInspection]:
    """Look at all switched-on tasks of a benchmark, or at one; indexes what is not indexed yet.

    `on_progress(done, total)` counts bytes of shards that are being indexed. Raises UsageError for an unknown task,
    MissingError where shards are not there.
    """
    tracks = {
        name: [each for each in track.active_tasks if task in {None, each.name}]
        for name, track in benchmark.tracks.items()
    }
    chosen = [each for tasks in tracks.values() for each in tasks]
    if not chosen:
        known = ", ".join(each.name for track in benchmark.tracks.values() for each in track.active_tasks)
        raise UsageError(f"benchmark {benchmark.name} has no task {task!r} that is switched on; it has {known}")
    paths = {
        path: None
        for each in chosen
        for split in (each.train, each.test)
        if split is not None
        for path in shard_paths(root, split.shards).values()
    }
    failed = index_shards(list(paths), on_progress)
    look = _Look(root=root, failed=failed, max_audio_s=benchmark.recipe.max_audio_s)
    return [found for name, tasks in tracks.items() if tasks for found in _track(name, tasks, look)]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What every split is looked at with."""

    root: Path
    failed: Mapping[Path, OrganizerError]
    max_audio_s: float


@dataclass(kw_only=True)
class _Tally:
    """One split while it is read."""

    metric: MetricName
    max_audio_s: float
    shards: int = 0
    clips: int = 0
    pairs: int = 0
    seconds: float = 0.0
    longest: tuple[float, str | None] = (0.0, None)
    rates: Counter[int] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    too_long: int = 0
    contradictions: int = 0
    samples: dict[bytes, int] = field(default_factory=dict)  # digest of a clip's samples -> hash of its labels
    names: set[int] = field(default_factory=set)
    defects: list[Defect] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, shard: str, entry: Entry, references: Sequence[str]) -> None:
        self.clips += 1
        self.pairs += len(references)
        self.seconds += entry.duration_s
        self.longest = max(self.longest, (entry.duration_s, f"{shard}:{entry.key}"), key=lambda each: each[0])
        self.rates[entry.sample_rate_hz] += 1
        self.codecs[entry.codec] += 1
        self.too_long += entry.duration_s > self.max_audio_s
        self.names.add(hash(entry.key.rpartition("/")[2]))
        said: set[str] = set()
        for reference in references:
            labels = split_labels(reference) if self.metric is MetricName.MAP else {normalize(reference)} - {""}
            self.empty += not labels
            if self.metric in _LABELLED:
                self.labels.update(labels)
                said |= labels
        answer = hash(frozenset(said))
        self.contradictions += self.samples.setdefault(bytes.fromhex(entry.pcm), answer) != answer

    def facts(self) -> SplitFacts:
        return SplitFacts(
            shards=self.shards,
            clips=self.clips,
            pairs=self.pairs,
            hours=self.seconds / 3600,
            longest_s=self.longest[0],
            longest_clip=self.longest[1],
            sample_rates_hz=dict(self.rates.most_common()),
            codecs=dict(self.codecs.most_common()),
            labels=len(self.labels) if self.metric in _LABELLED else None,
            empty_references=self.empty,
            too_long=self.too_long,
            duplicates=self.clips - len(self.samples),
            contradictions=self.contradictions,
            defects=tuple(self.defects),
            unreadable_shards=self.unreadable,
        )


def _track(name: str, tasks: Sequence[Task], look: _Look) -> Iterator[TaskInspection]:
    """The tasks of one track: all test clips are known before any training clip is looked at."""
    tests, tested = [], dict[bytes, list[tuple[int, str, str]]]()  # samples -> (task, clip, digest of its file)
    for at, task in enumerate(tasks):
        tests.append(_Tally(metric=task.metric, max_audio_s=look.max_audio_s))
        for shard, entry in _read(task.test, look, tests[at]):
            tested.setdefault(bytes.fromhex(entry.pcm), []).append((at, f"{shard}:{entry.key}", entry.sha256[:32]))
    heard: list[dict[tuple[str, str], Heard]] = [{} for _ in tasks]
    trains: list[_Tally | None] = []
    for task in tasks:
        if task.train is None:
            trains.append(None)
            continue
        train = _Tally(metric=task.metric, max_audio_s=look.max_audio_s)
        trains.append(train)
        for shard, entry in _read(task.train, look, train):
            for at, clip, sha256 in tested.get(bytes.fromhex(entry.pcm), ()):
                found = Heard(
                    test_clip=clip,
                    training_task=task.name,
                    training_clip=f"{shard}:{entry.key}",
                    same_bytes=entry.sha256.startswith(sha256),
                )
                if found.same_bytes or (clip, task.name) not in heard[at]:
                    heard[at][clip, task.name] = found
    for at, task in enumerate(tasks):
        yield _inspection(name, task, trains[at], tests[at], tuple(heard[at].values()))


def _read(split: TrainSplit | TestSplit, look: _Look, tally: _Tally) -> Iterator[tuple[str, Entry]]:
    """Every usable clip of a split, as it is counted; shards that cannot be read, and broken clips, are counted too."""
    for shard, path in shard_paths(look.root, split.shards).items():
        tally.shards += 1
        if path in look.failed:
            tally.unreadable[shard] = str(look.failed[path])
            continue
        index = index_of(path, shard)
        tally.defects += index.defects
        for entry in index.entries:
            try:
                references = clip_of(shard, entry).references(split.key)
            except OrganizerError as error:
                tally.defects.append(Defect(shard=shard, key=entry.key, kind=DefectKind.LABEL, why=str(error)))
                continue
            tally.add(shard, entry, references)
            yield shard, entry


def _inspection(
    track: str, task: Task, train: _Tally | None, test: _Tally, overlap: tuple[Heard, ...]
) -> TaskInspection:
    labelled = task.metric in _LABELLED
    trained = set() if train is None else set(train.labels)
    tested = set(test.labels)
    found = TaskInspection(
        track=track,
        task=task.name,
        metric=task.metric,
        train=None if train is None else train.facts(),
        test=test.facts(),
        labels_expected=(task.labels or task.num_classes) if labelled else None,
        labels_found=len(trained | tested) if labelled else None,
        labels_untested=tuple(sorted(trained - tested)),
        labels_untrained=tuple(sorted(tested - trained)) if train is not None else (),
        overlap=overlap,
        same_names=0 if train is None else len(train.names & test.names),
        remarks=(),
    )
    untrained_pairs = sum(test.labels[label] for label in found.labels_untrained)
    remarks = (
        *_set_remarks("test", found.test),
        *(() if found.train is None else _set_remarks("training", found.train)),
        *_label_remarks(task, found, untrained_pairs),
        *_overlap_remarks(found),
        *_size_remarks(task, found),
    )
    order = list(Concern)
    return replace(found, remarks=tuple(sorted(remarks, key=lambda remark: order.index(remark.concern))))


def _set_remarks(side: str, facts: SplitFacts) -> Iterator[Remark]:
    """What can be said of one side alone."""
    is_test = side == "test"
    for reason in facts.unreadable_shards.values():
        yield Remark(concern=Concern.SPOILS, text=reason)
    if not facts.clips:
        yield Remark(concern=Concern.SPOILS, text=f"there is no usable {side} clip")
    for kind in DefectKind:
        defects = [defect for defect in facts.defects if defect.kind is kind]
        if defects:
            spoils = is_test or kind is DefectKind.CODEC
            yield Remark(
                concern=Concern.SPOILS if spoils else Concern.WARNING,
                text=f"{len(defects)} {side} clips cannot be used"
                f"{', which stops every evaluation' if spoils else ' and are skipped'} ({_WORDS[kind]}): "
                + _some([f"{defect.clip}: {defect.why}" for defect in defects], "; "),
            )
    if facts.empty_references:
        yield Remark(concern=Concern.WARNING, text=f"{facts.empty_references} {side} references hold no text")
    if facts.contradictions:
        yield Remark(
            concern=Concern.WARNING,
            text=f"{facts.contradictions} {side} clips are, sample by sample, another one that has other labels",
        )
    elif facts.duplicates:
        yield Remark(
            concern=Concern.WARNING if is_test else Concern.NOTE,
            text=f"{facts.duplicates} {side} clips are there more than once, sample by sample",
        )
    if facts.too_long and not is_test:
        share = facts.too_long / facts.clips
        yield Remark(concern=Concern.NOTE, text=f"{facts.too_long} training clips ({share:.1%}) are cropped")


_WORDS = {
    DefectKind.AUDIO: "damaged audio",
    DefectKind.CODEC: "codecs that cannot be decoded",
    DefectKind.FIELDS: "no JSON, or a broken one",
    DefectKind.LABEL: "no reference",
    DefectKind.MEMBERS: "files missing or ambiguous",
}


def _label_remarks(task: Task, found: TaskInspection, untrained_pairs: int) -> Iterator[Remark]:
    """Of tasks whose answers are labels: whether these are the labels that were announced, on both sides."""
    if found.labels_found is None or found.test.labels is None:
        return
    if found.labels_expected not in {None, found.labels_found}:
        yield Remark(
            concern=Concern.SPOILS,
            text=f"{found.labels_expected} labels were expected, {found.labels_found} are in training and test",
        )
    if task.num_classes is not None and found.test.labels < task.num_classes:
        best = found.test.labels / task.num_classes
        yield Remark(
            concern=Concern.SPOILS,
            text=f"the test set holds {found.test.labels} of {task.num_classes} classes; the others count 0, so that "
            f"no encoder can have more than {best:.3f}",
        )
    if found.labels_untrained:
        yield Remark(
            concern=Concern.WARNING,
            text=f"{len(found.labels_untrained)} labels of the test set ({untrained_pairs} of {found.test.pairs} "
            f"pairs) are never seen in training: {_some(found.labels_untrained)}",
        )
    if found.train is not None and found.labels_untested:
        yield Remark(
            concern=Concern.NOTE,
            text=f"{len(found.labels_untested)} labels of the training set are never tested: "
            f"{_some(found.labels_untested)}",
        )
    if found.test.pairs > found.test.clips:
        yield Remark(
            concern=Concern.WARNING,
            text=f"{found.test.pairs - found.test.clips} test labels come in lists: each is a pair of its own, and no "
            "answer is right for two of them",
        )


def _overlap_remarks(found: TaskInspection) -> Iterator[Remark]:
    by_task = Counter(heard.training_task for heard in found.overlap)
    for training_task, count in by_task.items():
        own = training_task == found.task
        pairs = [heard for heard in found.overlap if heard.training_task == training_task]
        same = sum(heard.same_bytes for heard in pairs)
        whose = "training clips too" if own else f"training clips of task {training_task} of the same track"
        yield Remark(
            concern=Concern.SPOILS if own else Concern.WARNING,
            text=f"{count} of {found.test.clips} test clips are {whose} ({same} byte by byte, {count - same} sample by "
            f"sample): {_some([f'{heard.test_clip} = {heard.training_clip}' for heard in pairs])}",
        )
    if found.same_names and not by_task[found.task]:
        yield Remark(
            concern=Concern.NOTE,
            text=f"{found.same_names} test clips are called like a training clip; if names stand for recordings here, "
            "compare them",
        )


def _size_remarks(task: Task, found: TaskInspection) -> Iterator[Remark]:
    if task.test_items not in {None, found.test.pairs}:
        yield Remark(
            concern=Concern.WARNING,
            text=f"the configuration says {task.test_items} test pairs, {found.test.pairs} are there",
        )
    if found.train is None or not found.train.clips or not found.test.clips:
        return
    for what, here, there in (
        ("sample rates", set(found.train.sample_rates_hz), set(found.test.sample_rates_hz)),
        ("codecs", set(found.train.codecs), set(found.test.codecs)),
    ):
        if here != there:
            yield Remark(
                concern=Concern.NOTE,
                text=f"{what} differ: {_some(sorted(map(str, here)))} in training, {_some(sorted(map(str, there)))} in "
                "the test",
            )


def _some(values: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return separator.join(islice(values, _SHOWN)) + more
