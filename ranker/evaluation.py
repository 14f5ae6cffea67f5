"""One part of one track of one submission, from features to scores: encode, train, answer, score, manifest.

All that this writes lies in the attempt's own folder, save features that other jobs of the submission may use
(`ranker.lalm.shelf`). What an earlier attempt of the same job finished (checkpoints, scores made with the same weights)
is taken over, and so are the weights of another finished job of the submission that trained the very same; on the same
CPU with the same threads it is what would come out again, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ranker.conditions import data_of, models_of, training_key
from ranker.config import Recipe, Task, TrackPart
from ranker.data.shards import clusters, scored_clips, training_data
from ranker.digest import file_digest
from ranker.durable import remove_pieces, whole_file
from ranker.errors import InfraError, OrganizerError
from ranker.executors.gpus import own_gpu
from ranker.hidden import load_benchmark
from ranker.home import Home
from ranker.intake.archive import describe
from ranker.intake.phases import frozen_folders
from ranker.job import JobContext, Outcome, SubmissionSnapshot
from ranker.journal import ENCODER_NAME
from ranker.lalm import decoder as decoders
from ranker.lalm.answers import answer
from ranker.lalm.curriculum import Sample, curriculum
from ranker.lalm.features import FeatureStore, calls, encode_secretly, shuffled
from ranker.lalm.merged import MergedDecoder
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.lalm.order import SecretOrder
from ranker.lalm.shelf import Shelf
from ranker.lalm.train import LOG_NAME, adopt, latest_checkpoint, train
from ranker.manifest import hardware, peak_memory_gb, software, write_manifest
from ranker.metrics import Pair, blind_answer, blind_value
from ranker.metrics import evaluate as compute_metric
from ranker.queue import NewScore
from ranker.sandbox.backends import open_configured
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.witness import Witness, confirm
from ranker.shared_features import shelf_of
from ranker.types import Condition, EncoderSource, Part, Progress, SandboxName, Stage
from ranker.weights import finished_weights, only_trainer, training_identity

_STANDARDIZED_OVER = 2_000


@dataclass(kw_only=True)
class _Run:
    """One attempt: its context, what it measures, how many steps an earlier one had done, and each stage's seconds.

    `key` names all randomness of the training: the same for every team. `training` is the identity of the weights.
    """

    context: JobContext
    part: TrackPart
    condition: Condition
    key: str
    training: str
    batch_invariant: bool
    shelf: Shelf | None = None
    steps_taken_over: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    @property
    def data(self) -> Path:
        return self.context.home.data / self.condition.benchmark

    @property
    def folder(self) -> Path:
        return self.context.run_folder

    @property
    def order(self) -> SecretOrder:
        """In which order the encoder gets its calls: the same in all attempts of the job."""
        return SecretOrder.of_job(self.folder.parent)

    @property
    def siblings(self) -> Path:
        """Folder of all jobs of this submission."""
        return self.folder.parent.parent

    @property
    def earlier(self) -> list[Path]:
        """Folders of this job's earlier attempts, latest first."""
        return sorted((path for path in self.folder.parent.glob("attempt-*") if path < self.folder), reverse=True)

    def lap(self, stage: Stage) -> None:
        """Add the wall-clock time since the last lap to `stage`."""
        now = time.monotonic()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self.since, 3)
        self.since = now


def evaluate(context: JobContext) -> Outcome:
    """Run one EVALUATE job to its end.

    It waits while another job of the submission trains the very same, whose weights it then takes over. Raises
    ParticipantError (the encoder), InfraError (our machine) or OrganizerError (data or configuration changed).
    """
    started_at = datetime.now(UTC)
    run = _begin(context)
    remove_pieces(run.folder.parent)  # of attempts that were killed; one that lost its job and lives ends at the fence

    def wait() -> None:
        context.report(Progress(stage=Stage.LOAD))
        context.rest()

    with only_trainer(run.siblings, run.training, run.folder, wait):
        return _evaluate(run, started_at)


def _evaluate(run: _Run, started_at: datetime) -> Outcome:
    context = run.context
    for task in run.part.tasks:
        clips = scored_clips(run.data, task.test.shards, task.test.key)  # what is broken is told before training
        if task.test.cluster is not None:
            clusters(clips, task.test.cluster)
    threads = _fixed_threads(run)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    service = context.service
    name = service.sandbox if run.condition.sandboxed else SandboxName.NONE
    gpu = None if run.condition.device == "cpu" else own_gpu()
    sandbox = open_configured(service, context.home.root, name=name, gpu=gpu)
    sandbox.log_file = run.folder / ENCODER_NAME
    spec = encoder_spec(context.home, context.submission, run.part.recipe, threads)
    context.report(Progress(stage=Stage.LOAD))
    with ExitStack() as sharing:
        facts, scores = _measured(run, sandbox, spec, sharing)
        context.report(Progress(stage=Stage.CHECK))
        confirm(sandbox, spec, service.limits, [*run.earlier, run.folder])
        run.lap(Stage.CHECK)
    facts |= {"sandbox": sandbox.name, "threads": threads, "started_at": _iso(started_at)}
    digest = write_manifest(run.folder, _manifest(run, scores) | facts)
    run_path = str(run.folder.relative_to(context.home.root))
    result = {"run": run_path, "manifest_digest": digest, "encoder": facts["encoder"]}
    return Outcome(result=result, scores=tuple(scores))


def _measured(
    run: _Run, sandbox: ServedSandbox, spec: EncoderSpec, sharing: ExitStack
) -> tuple[dict[str, Any], list[NewScore]]:
    """What the manifest says of weights and encoder, and the scores. The shelf stays open, on `sharing`."""
    context, recipe = run.context, run.part.recipe
    files = decoders.locate(recipe.decoder)
    network, tokenizer = decoders.load(files, run.condition.decoder_layers)
    with sandbox.start(spec, context.service.limits) as started:
        context.watch(lambda: getattr(started.usage().peak, "size_bytes", None))
        encoder = Witness(started, context.service.probes)
        run.shelf = sharing.enter_context(shelf_of(context, run.part, sandbox=sandbox, spec=spec, encoder=encoder))
        model = AudioLanguageModel(network, tokenizer, feature_dim=encoder.output_dim, recipe=recipe, init_key=run.key)
        model.to("cpu" if run.condition.device == "cpu" else "cuda")
        run.lap(Stage.LOAD)
        weights = _trained(run, model, encoder)
        decoder = MergedDecoder(model, recipe, graphs=run.condition.cuda_graphs)
        scores = []
        for task in run.part.tasks:
            context.rest()  # what is measured of earlier tasks is kept, whoever goes on
            scores.append(_score(run, task, decoder, encoder, weights))
        facts = {
            "weights": weights,
            "encoder": started.usage().to_json(),
            "probes": encoder.probed.to_json(),
            "features_taken_over": dict(run.shelf.taken),
        }
    return facts, scores


def _manifest(run: _Run, scores: Sequence[NewScore]) -> dict[str, object]:
    """What the run was of, under which condition, and what it cost."""
    context, condition = run.context, run.condition
    return {
        "submission": asdict(context.submission),
        "condition": condition.to_json(),
        "condition_digest": condition.digest,
        "recipe": run.part.recipe.model_dump(mode="json"),
        "training": run.training,
        "seed": context.claim.seed,
        "attempt": context.claim.attempt,
        "steps_taken_over": run.steps_taken_over,
        "skipped": _skipped(run),
        "finished_at": _iso(datetime.now(UTC)),
        "seconds": run.seconds,
        "peak_memory_gb": peak_memory_gb(),
        "hardware": hardware(condition.device),
        "software": software(),
        "scores": {
            score.task: {"metric": score.metric, "value": score.value, "items": score.items} for score in scores
        },
    }


def _skipped(run: _Run) -> dict[str, dict[str, str]]:
    """Of each task that has any: the training clips that could not be used, and why. The same for every team."""
    splits = {task.name: task.train for task in run.part.mixture.tasks if task.train is not None}
    found = {name: training_data(run.data, split.shards, split.key).skipped for name, split in splits.items()}
    return {name: {each.clip: each.why for each in defects} for name, defects in found.items() if defects}


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _begin(context: JobContext) -> _Run:
    """What is to be measured, provided that it is still what was queued."""
    condition, check = context.claim.condition, context.submission.check
    if condition is None or check is None:
        raise OrganizerError(
            f"job {context.claim.job_id} evaluates submission {context.submission.id}, which has no successful check; "
            "run `ranker ingest` on its ZIP again"
        )
    benchmark = load_benchmark(context.home, condition.benchmark)
    part = benchmark.part(condition.track, condition.part)
    if condition.measurement != benchmark.measurement_digest(condition.track, condition.part):
        raise OrganizerError(_changed(context, condition))
    if condition.data != data_of(context.home, benchmark, part):
        raise OrganizerError(
            f"the data of benchmark {benchmark.name} changed after job {context.claim.job_id} was queued; "
            "run `ranker evaluate` again, which queues it anew"
        )
    models = models_of(part)
    if condition.metric_models != ("" if models is None else models.digest):
        raise OrganizerError(
            f"the language models of the caption metrics changed after job {context.claim.job_id} was queued; "
            "run `ranker evaluate` again, which queues it anew"
        )
    here = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if condition.device not in {here, "cpu"}:
        raise InfraError(f"job {context.claim.job_id} is to run on {condition.device}, but this worker has {here}")
    if condition.decoder != decoders.locate(part.recipe.decoder).digest:
        raise OrganizerError(
            f"the decoder of this machine is not the one that job {context.claim.job_id} was queued for; run "
            f"`ranker data fetch {benchmark.name}` or install the same packages here, then `ranker evaluate` again"
        )
    source = EncoderSource(**check["source"])
    key = f"{training_key(context.home, benchmark, condition.track, condition.part)}:{context.claim.seed}"
    return _Run(
        context=context,
        part=part,
        condition=condition,
        key=key,
        training=training_identity(key, condition, source),
        batch_invariant=bool(check["encoder"]["batch_invariant"]),
    )


def _changed(context: JobContext, condition: Condition) -> str:
    """Why a job cannot be done: what it measures is not what the files here say."""
    job, hidden = f"job {context.claim.job_id}", context.home.hidden
    where = f"benchmark {condition.benchmark}, track {condition.track}"
    if hidden is None and condition.part is not Part.PUBLIC:
        return (
            f"{job} measures hidden tasks of {where}, but this worker was given no file of hidden tasks; start it with "
            "--hidden FILE, or RANKER_HIDDEN"
        )
    advice = "run `ranker evaluate` again, which queues it anew"
    if hidden is None:
        advice += "; if it was queued with --hidden FILE, this worker needs that file too"
    else:
        where += f", or the file of its hidden tasks, {hidden},"
    return f"the configuration of {where}{',' * (hidden is None)} changed after {job} was queued; {advice}"


def encoder_spec(home: Home, submission: SubmissionSnapshot, recipe: Recipe, threads: int) -> EncoderSpec:
    """The encoder as it was checked, to be run as a recipe says.

    What is run is what was checked: raises InfraError if anybody, we included, touched the unpacked files since.
    """
    check = submission.check or {}
    tree = home.submissions / submission.digest / "tree"
    if not tree.is_dir() or describe(tree).digest != check["tree"]["digest"]:
        raise InfraError(
            f"the unpacked files of submission {submission.id} are no longer those that were checked; "
            f"delete {tree} and run `ranker ingest` on its ZIP again"
        )
    frozen = frozen_folders(tree.parent, check)
    return EncoderSpec(
        tree=tree,
        source=EncoderSource(**check["source"]),
        seed=recipe.seed,
        threads=threads,
        max_frames=recipe.max_frames,
        output_dim=int(check["encoder"]["output_dim"]),
        packages=frozen.packages,
        weights=frozen.weights,
    )


def _fixed_threads(run: _Run) -> int:
    """CPU threads of the job: chosen at its first attempt and kept, since sums depend on how they are split."""
    path = run.folder.parent / "threads"
    try:
        return int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        workers = run.context.service.cpu_workers if run.condition.device == "cpu" else 1
        allowed = os.environ.get("OMP_NUM_THREADS", "")  # the executor's, so that all jobs together have enough cores
        cores = int(allowed) if allowed.isdecimal() else os.cpu_count() or 1
        threads = max(1, min(run.part.recipe.threads, (os.cpu_count() or 1) // workers, cores))
        with whole_file(path) as temporary:
            temporary.write_text(str(threads), encoding="ascii")
        return threads


def _trained(run: _Run, model: AudioLanguageModel, encoder: Witness) -> str:
    """Train `model` in place, or take over what an earlier attempt or another job finished; returns the weights'
    digest.
    """
    final = run.folder / f"step-{run.condition.steps:08d}"
    finished = finished_weights(run.siblings, run.training, run.condition.steps)
    checkpoint = finished or latest_checkpoint(run.earlier)
    if checkpoint is not None:
        _take_over_log(run, checkpoint)
    if checkpoint is not None and checkpoint.name == final.name:
        model.load_trained(checkpoint / "trained.safetensors")
        adopt(checkpoint, run.folder)
    else:
        _train(run, model, encoder, checkpoint)
    model.eval()
    run.lap(Stage.TRAIN)
    return file_digest(final / "trained.safetensors")


def _train(run: _Run, model: AudioLanguageModel, encoder: Witness, checkpoint: Path | None) -> None:
    recipe, steps, report = run.part.recipe, run.condition.steps, run.context.report
    plan = curriculum(
        run.part.mixture,
        recipe,
        data=run.data,
        seed=run.context.claim.seed,
        random_key=run.key,
        steps=steps,
        count_tokens=lambda text: len(model.tokenize(text)),
    )
    excerpts = {sample.excerpt.key: sample.excerpt for batch in plan for sample in batch}
    store = FeatureStore(
        data=run.data,
        encoder=encoder,
        plan=shuffled(calls(excerpts.values(), batch_invariant=run.batch_invariant), run.order),
        path=run.folder / "features.f32",
        max_bytes=int(recipe.feature_cache_gb * 1e9),
        shelf=run.shelf,
    )

    def example(sample: Sample) -> Example:
        target = (*model.tokenize(sample.answer), model.eos_id)
        return Example(features=store.get(sample.excerpt), prompt=model.tokenize(sample.prompt), target=target)

    def filling(done: int, total: int) -> None:
        report(Progress(stage=Stage.ENCODE, done=done, total=total))
        run.context.rest()  # features are encoded anew by any later attempt: the sooner it stops, the less is lost

    def stepped(done: int, loss: float) -> None:
        report(Progress(stage=Stage.TRAIN, done=done, total=steps, loss=loss))
        if done % recipe.checkpoint_every == 0:
            run.context.rest()

    with store:
        encoder.begin_stage("training", len(excerpts))
        store.fill(filling)
        encoder.end_stage(run.folder, "training")
        if recipe.feature_standardize:
            model.standardize(store.get(excerpt) for excerpt in islice(excerpts.values(), _STANDARDIZED_OVER))
        run.lap(Stage.ENCODE)
        train(
            model,
            recipe=recipe,
            steps=steps,
            random_key=run.key,
            examples=lambda step: [example(sample) for sample in plan[step]],
            folder=run.folder,
            resume_from=checkpoint,
            cpu=run.condition.device == "cpu",
            on_step=stepped,
            graphs=run.condition.cuda_graphs,
        )


def _take_over_log(run: _Run, checkpoint: Path) -> None:
    """Begin this attempt's training log with the lines up to the checkpoint that is gone on from."""
    done = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
    lines = (checkpoint.parent / LOG_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    with whole_file(run.folder / LOG_NAME) as temporary:
        temporary.write_text("".join(lines[:done]), encoding="utf-8")
    run.steps_taken_over = done


def _score(run: _Run, task: Task, decoder: MergedDecoder, encoder: Witness, weights: str) -> NewScore:
    """Answer and score one task. Its pairs go to `predictions/<task>.parquet`, its value beside them, written last."""
    folder = run.folder / "predictions"
    folder.mkdir(exist_ok=True)
    earlier = earlier_note(run.earlier, task.name, weights)
    if earlier is not None:
        adopt_predictions(earlier, folder)
    else:
        score = _measure(run, task, decoder, encoder)
        predictions = file_digest(folder / f"{task.name}.parquet")
        with whole_file(folder / f"{task.name}.json") as temporary:
            note = {"weights": weights, "predictions": predictions, "score": score}
            temporary.write_text(json.dumps(note), encoding="utf-8")
    found = json.loads((folder / f"{task.name}.json").read_text(encoding="utf-8"))["score"]
    path = (folder / f"{task.name}.parquet").relative_to(run.context.home.root)
    return NewScore(task=task.name, predictions=str(path), **found)


def _measure(run: _Run, task: Task, decoder: MergedDecoder, encoder: Witness) -> dict[str, object]:
    recipe, report = run.part.recipe, run.context.report
    clips = scored_clips(run.data, task.test.shards, task.test.key)
    report(Progress(stage=Stage.GENERATE, task=task.name, done=0, total=len(clips)))
    encoder.begin_stage(f"task-{task.name}", len(clips))
    answers = answer(
        decoder,
        encoder,
        clips,
        data=run.data,
        prompt=task.test.prompt,
        max_new_tokens=min(task.test.max_new_tokens or recipe.max_new_tokens, recipe.max_new_tokens),
        recipe=recipe,
        batch_invariant=run.batch_invariant,
        on_progress=lambda done: report(Progress(stage=Stage.GENERATE, task=task.name, done=done, total=len(clips))),
        encode=partial(
            encode_secretly,
            order=run.order,
            path=run.folder / "features.f32",
            max_bytes=int(recipe.feature_cache_gb * 1e9),
            shelf=run.shelf,
            on_progress=lambda done, total: report(
                Progress(stage=Stage.ENCODE, task=task.name, done=done, total=total)
            ),
        ),
    )
    encoder.end_stage(run.folder, f"task-{task.name}")
    run.lap(Stage.GENERATE)
    report(Progress(stage=Stage.SCORE, task=task.name))
    scored = [
        Pair(clip=clip.id, reference=reference, candidate=answers[clip.id])
        for clip in clips
        for reference in clip.references(task.test.key)
    ]
    result = compute_metric(task.metric, scored, num_classes=task.num_classes, models=models_of(run.part))
    items = result.items
    if task.test.cluster is not None:  # for intervals; no score depends on it
        of_clip = zip([clip.id for clip in clips], clusters(clips, task.test.cluster), strict=True)
        items = items.assign(cluster=items["clip"].map(dict(of_clip)))
    with whole_file(run.folder / "predictions" / f"{task.name}.parquet") as temporary:
        items.to_parquet(temporary, index=False)
    blind = _blind(run, task, scored)
    run.lap(Stage.SCORE)
    return {"metric": result.name, "value": result.value, "blind": blind, "items": len(result.items)}


def _blind(run: _Run, task: Task, scored: Sequence[Pair]) -> float | None:
    """What a model that answers without listening could get: always the commonest training answer."""
    if task.train is None:
        return None
    shards = training_data(run.data, task.train.shards, task.train.key).shards
    clips = [clip for shard in shards for clip in shard.clips]
    commonest = blind_answer(reference for clip in clips for reference in clip.references(task.train.key))
    return blind_value(task.metric, scored, commonest, num_classes=task.num_classes, models=models_of(run.part))


def earlier_note(attempts: Sequence[Path], task: str, weights: str) -> Path | None:
    """The note of an earlier attempt that scored this task with the same weights, if its predictions are still those
    that it was written for.

    Attempts of one job have one condition: part, data, decoder, device and metric models (`_begin` compares them).
    """
    for folder in attempts:
        path = folder / "predictions" / f"{task}.json"
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            if (note["weights"], note["predictions"]) == (weights, file_digest(path.with_suffix(".parquet"))):
                return path
        except (FileNotFoundError, ValueError, KeyError):  # cut, or of an earlier version: it is measured again
            continue
    return None


def adopt_predictions(note: Path, folder: Path) -> None:
    """Copy a task's pairs, then the note with its value, each whole or not at all: a note stands for its pairs."""
    for path in (note.with_suffix(".parquet"), note):
        with whole_file(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
