"""The coordinator of a Ray cluster: `python -m ranker.coordinator --home DIR --jobs 1,2,3 --address HOST:PORT`.

The one process of an evaluation on a cluster that writes the database; it runs on the database's own host, and is to
`ranker.executors.ray` what a worker is to `ranker.executors.local`: it may be killed at any moment, and is started
again. It claims a job when the cluster has room for it, keeps the lease for as long as the machine that does it is
heard of, takes files back, and records how it ended. What comes back after the lease was lost is refused.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from ranker import queue
from ranker.config import load
from ranker.db.models import Job
from ranker.db.session import open_database, session
from ranker.endings import Endings
from ranker.errors import InfraError, LeaseLostError, OrganizerError, RankerError
from ranker.executors import node
from ranker.executors.cargo import Packer
from ranker.executors.node import Errand, Word, put_into
from ranker.executors.parcel import Arrivals, Piece
from ranker.executors.pool import EXIT_HOPELESS
from ranker.executors.ray import Cluster, Room
from ranker.home import Home
from ranker.job import Failure, Order, Outcome, run_folder, snapshot
from ranker.manifest import read_manifest
from ranker.perform import EXIT_STOPPED, StopSignal, die_with
from ranker.queue import Claim
from ranker.settings import Service
from ranker.types import Condition, Fault, JobKind, Part, Progress, digest_json

log = logging.getLogger("ranker.coordinator")

EXIT_DONE = 0
EXIT_ORGANIZER = 1
POLL_S = 0.2
ROOM_EVERY_S = 5.0
BEATS_PER_LEASE = 8
SILENCE = 0.75  # of a lease; before it ends, or whoever watches this process takes it for one that hangs
FAREWELL_S = 5.0
LOOK_EVERY_S = 1.0
LEAVING_S = 60.0

Training = tuple[str, ...]
"""What a job trains: jobs that have the same wait for each other."""


@dataclass(kw_only=True)
class Flight:
    """One attempt on the cluster. Times are monotonic: when it was last heard of, its lease prolonged (`beaten`), and
    the database asked whether the job is still ours (`looked`).
    """

    claim: Claim
    stream: Any
    arrivals: Arrivals
    started: float
    heard: float
    beaten: float
    looked: float
    place: str | None = None
    ended: Outcome | Failure | None = None


@dataclass(kw_only=True)
class Coordinator:
    """Keeps the jobs of one call on a cluster, until none of them is queued."""

    engine: Engine
    home: Home
    service: Service
    cluster: Cluster
    stop: StopSignal
    workers: int | None
    performer: tuple[str, ...]
    flights: list[Flight] = field(default_factory=list)
    _leaving: list[tuple[float, Any]] = field(default_factory=list)
    _room: Room | None = None
    _room_at: float = -ROOM_EVERY_S
    _claim_at: float = 0.0
    _packer: Packer = field(init=False)
    _endings: Endings = field(init=False)

    def __post_init__(self) -> None:
        self._endings = Endings(engine=self.engine, home=self.home, service=self.service)
        self._packer = Packer(home=self.home, with_data=self.service.cluster.data_folder is None)

    def work(self, job_ids: Collection[int]) -> int:
        """Claim and place jobs until none is queued or running here; returns the process's exit code."""
        try:
            return self._work(job_ids)
        except KeyboardInterrupt:
            return EXIT_STOPPED
        finally:
            self._give_back()

    def _work(self, job_ids: Collection[int]) -> int:
        jobs, on_gpu = self._jobs(job_ids)
        since = time.monotonic()
        while True:
            room = self._room_now(on_gpu=on_gpu)
            if room.jobs:
                since = time.monotonic()
            elif not self.flights and time.monotonic() - since > self.service.cluster.reconnect_s:
                raise InfraError(_no_room(room, self.service.cluster.reconnect_s))
            limit = room.jobs if self.workers is None else min(room.jobs, self.workers)
            try:
                while len(self.flights) < limit and time.monotonic() >= self._claim_at:
                    self._begin_next(jobs, room)
                if not self.flights and queue.next_due(self.engine, now=_now(), job_ids=jobs.keys()) is None:
                    return EXIT_DONE
                for flight in self._heard():
                    if self._hear(flight) is Fault.ORGANIZER:
                        return EXIT_ORGANIZER
                self._look_after()
            except (
                SQLAlchemyError
            ) as error:  # a lock that is held, a disk that is full: leases outlive that for a while
                log.warning("the database did not answer, and is asked again: %s", error)
                for flight in self.flights:  # what nobody can write, nobody can have taken: nodes go on meanwhile
                    self.cluster.hold(flight.claim)
                with self.stop.armed():
                    time.sleep(LOOK_EVERY_S)

    def _jobs(self, job_ids: Collection[int]) -> tuple[dict[int, Training], bool]:
        """What each job trains, and whether any needs a GPU. Raises OrganizerError for checks, which the home's own
        host does.
        """
        with session(self.engine, read_only=True) as reading:
            found = reading.scalars(select(Job).where(Job.id.in_(job_ids))).all()
        if any(job.kind != JobKind.EVALUATE or job.condition is None for job in found):
            raise OrganizerError("checks of submissions are done on the database's own host, not on a cluster")
        conditions = {job.id: Condition.from_json(job.condition) for job in found if job.condition is not None}
        trainings = {job.id: _training(job.submission_id, conditions[job.id], job.seed) for job in found}
        return trainings, any(condition.device != "cpu" for condition in conditions.values())

    def _room_now(self, *, on_gpu: bool) -> Room:
        if self._room is None or time.monotonic() - self._room_at > ROOM_EVERY_S:
            self._room, self._room_at = self.cluster.room(self.service, on_gpu=on_gpu), time.monotonic()
        return self._room

    def _begin_next(self, jobs: dict[int, Training], room: Room) -> None:
        """Claim a job that is due, and place it; if there is none, none is looked for during the next second.

        Of the jobs that train the very same weights, one at a time: the next finds them.
        """
        busy = {jobs[flight.claim.job_id] for flight in self.flights}
        free = {job for job, training in jobs.items() if training not in busy}
        now = time.monotonic()
        claim = queue.claim(
            self.engine, worker=queue.coordinator_id(), now=_now(), lease_s=self.service.lease_s, job_ids=free
        )
        if claim is None:
            self._claim_at = now + LOOK_EVERY_S
            return
        folder = run_folder(self.home, claim)
        folder.mkdir(parents=True, exist_ok=True)
        arrivals = Arrivals(folder.parent, folder.name, max_bytes=self.service.cluster.max_result_gb * 1e9)
        try:
            stream = self.cluster.start(self._errand(claim, room), room)
        except (RankerError, OSError) as error:
            self._failed(claim, Failure(fault=Fault.INFRA, reasons=(str(error),)))
            return
        self.flights.append(
            Flight(claim=claim, stream=stream, arrivals=arrivals, started=now, heard=now, beaten=now, looked=now)
        )

    def _errand(self, claim: Claim, room: Room) -> Errand:
        settings = self.service.cluster
        submission = snapshot(self.engine, claim.submission_id)
        cargo = self._packer.pack(claim, submission.digest)
        if settings.shared_folder is None:
            self.cluster.offer(cargo.sources)
        else:
            self.cluster.offer({} if cargo.hidden is None else {cargo.hidden[0].sha256: cargo.hidden[1]})
            for piece, path in (*cargo.pieces, *cargo.data):
                if piece.link is None:
                    put_into(settings.shared_folder, piece, path)
        return Errand(
            order=Order(home=self.home, service=self.service, claim=claim, submission=submission),
            pieces=tuple(piece for piece, _ in cargo.pieces),
            data=tuple(piece for piece, _ in cargo.data),
            hidden=None if cargo.hidden is None else cargo.hidden[0],
            node_folder=settings.node_folder,
            shared=settings.shared_folder,
            data_folder=settings.data_folder,
            cache_bytes=settings.node_cache_gb * 1e9,
            threads=room.cpus,
            beat_s=self.service.lease_s / BEATS_PER_LEASE,
            command=self.performer,
        )

    def _heard(self) -> list[Flight]:
        """Flights of which something is to be heard, after a moment of waiting."""
        with self.stop.armed():
            if not self.flights:
                time.sleep(POLL_S)
                return []
            waiting = [flight for flight in self.flights if flight.ended is not None]  # for the database
            streams = [flight.stream for flight in self.flights if flight.ended is None]
            ready = self.cluster.heard(streams, POLL_S) if streams else []
            return waiting + [flight for flight in self.flights if any(flight.stream is each for each in ready)]

    def _hear(self, flight: Flight) -> Fault | None:
        """Take the next thing that a flight tells; returns whose fault it was if that is a failure."""
        try:
            word = None if flight.ended is not None else self.cluster.next(flight.stream)
            if word is not None:
                flight.heard = time.monotonic()
                self._take(flight, word)
            if word is None or flight.ended is not None:
                return self._land(flight)
        except LeaseLostError as error:
            log.warning("%s; what it sent is thrown away", error)
            flight.arrivals.discard()
            self._drop(flight)
        except (InfraError, OSError, KeyError, TypeError, ValueError) as error:
            where = "" if flight.place is None else f" (it ran on {flight.place})"
            return self._failed_flight(flight, Failure(fault=Fault.INFRA, reasons=(f"{error}{where}",)))
        return None

    def _take(self, flight: Flight, word: Word) -> None:
        """Act on one thing told. Raises LeaseLostError, and InfraError or ValueError for what no honest node tells."""
        claim, progress = flight.claim, None
        match word:
            case {"begun": place}:
                flight.place = str(place["host"])
                (run_folder(self.home, claim) / "node.json").write_text(json.dumps(place), encoding="utf-8")
            case {"progress": told}:
                progress = Progress.from_json(told)
            case {"part": told, "data": data, "offset": offset}:
                flight.arrivals.take(Piece(**told), offset, data)
            case {"part": told}:
                assert self.service.cluster.shared_folder is not None
                piece = Piece(**told)
                flight.arrivals.take_whole(piece, node.shared_path(self.service.cluster.shared_folder, piece))
            case {"delivery": told, "checkpoints": checkpoints}:
                self._beat(flight, None)  # nothing is put in place for an attempt that has lost its job
                flight.arrivals.put_in_place([Piece(**each) for each in told], checkpoints)
                if self._is_asked_back(flight):  # what was delivered is not lost
                    self._endings.given_back(claim)
                    self._drop(flight)
                return
            case {"outcome": told}:
                flight.ended = Outcome.from_json(told)
            case {"failure": told}:
                flight.ended = Failure.from_json(told)
        interval_s = self.service.lease_s / BEATS_PER_LEASE
        if progress is not None or time.monotonic() - flight.beaten >= interval_s:
            self._beat(flight, progress)

    def _beat(self, flight: Flight, progress: Progress | None) -> None:
        """Prolong the lease. Raises LeaseLostError. The lease outlives some beats that the database did not take."""
        try:
            queue.heartbeat(self.engine, flight.claim, now=_now(), lease_s=self.service.lease_s, progress=progress)
            flight.beaten = time.monotonic()
        except SQLAlchemyError as error:
            log.warning("a heartbeat failed and is tried again: %s", error)
        self.cluster.hold(flight.claim)

    def _land(self, flight: Flight) -> Fault | None:
        """Record how a flight ended."""
        ended, claim = flight.ended, flight.claim
        if isinstance(ended, Outcome):
            self._must_be_whole(claim, ended)
            try:
                self._endings.succeeded(claim, ended)
            except LeaseLostError:
                (run_folder(self.home, claim) / "manifest.json").unlink(missing_ok=True)  # so that it is no run
                raise
            self._drop(flight)
            return None
        nothing = Failure(fault=Fault.INFRA, reasons=("the attempt ended on the cluster without a word",))
        return self._failed_flight(flight, ended or nothing)

    def _must_be_whole(self, claim: Claim, outcome: Outcome) -> None:
        """Raises InfraError unless the manifest that came back is the one that the outcome tells of."""
        expected = outcome.result.get("manifest_digest")
        if expected is None:
            return
        manifest = read_manifest(run_folder(self.home, claim))
        if manifest is None or digest_json(manifest) != expected:
            raise InfraError(f"the manifest of attempt {claim.attempt} of job {claim.job_id} did not come back whole")

    def _failed_flight(self, flight: Flight, failure: Failure) -> Fault | None:
        self._drop(flight)
        flight.arrivals.discard()
        return self._failed(flight.claim, failure)

    def _failed(self, claim: Claim, failure: Failure) -> Fault | None:
        try:
            self._endings.failed(claim, failure)
        except LeaseLostError as error:
            log.warning("%s", error)
            return None
        return failure.fault

    def _look_after(self) -> None:
        """Interrupt what is no longer ours, give up what was not heard of for most of a lease, or never began, and end
        by force what was interrupted and stays.
        """
        now = time.monotonic()
        for flight in [flight for flight in self.flights if flight.ended is None]:
            waits = flight.place is None and now - flight.started < self.service.cluster.start_timeout_s
            try:
                if now - flight.looked >= LOOK_EVERY_S:
                    flight.looked = now
                    queue.is_asked_back(self.engine, flight.claim)
                if waits and now - flight.beaten >= self.service.lease_s / BEATS_PER_LEASE:
                    self._beat(flight, None)
            except LeaseLostError as error:
                log.warning("%s", error)
                flight.arrivals.discard()
                self._drop(flight)
                continue
            silent_s = now - flight.heard
            if not waits and silent_s >= self.service.lease_s * SILENCE:
                where = flight.place or "the cluster, where it never began"
                reason = f"attempt {flight.claim.attempt} was not heard of for {silent_s:.0f} s from {where}"
                self._failed_flight(flight, Failure(fault=Fault.INFRA, reasons=(reason,)))
        for _, stream in [each for each in self._leaving if each[0] <= now]:
            self.cluster.end(stream, by_force=True)
        self._leaving = [each for each in self._leaving if each[0] > now]

    def _is_asked_back(self, flight: Flight) -> bool:
        try:
            return queue.is_asked_back(self.engine, flight.claim)
        except SQLAlchemyError:
            return False

    def _drop(self, flight: Flight) -> None:
        """Think of a flight no more; whatever it still does is interrupted."""
        self.flights.remove(flight)
        self.cluster.let_go(flight.claim)
        if flight.ended is None:
            self.cluster.end(flight.stream)
            self._leaving.append((time.monotonic() + LEAVING_S, flight.stream))

    def _give_back(self) -> None:
        """Queue again what still runs, then interrupt it; sandboxes get a moment to go."""
        streams = []
        for flight in list(self.flights):
            try:
                self._endings.given_back(flight.claim)
            except LeaseLostError as error:
                log.warning("%s", error)
            streams.append(flight.stream)
            self._drop(flight)
        deadline = time.monotonic() + FAREWELL_S
        while streams and time.monotonic() < deadline:
            for stream in self.cluster.heard(streams, POLL_S):
                try:
                    over = self.cluster.next(stream) is None
                except InfraError:
                    over = True
                if over:
                    streams.remove(stream)


def _training(submission_id: str, condition: Condition, seed: int) -> Training:
    """Equal for jobs that may train the same weights: the public and the prompted part of a track, with one seed."""
    part = Part.PUBLIC if condition.part is Part.PROMPTED else condition.part
    return (submission_id, condition.circumstances, str(condition.steps), part, str(seed))


def _no_room(room: Room, waited_s: float) -> str:
    gpu = f" and {room.gpus:g} of a GPU" if room.gpus else ""
    return (
        f"for {waited_s:.0f} s the cluster had no machine with the {room.cpus} CPUs{gpu} that a job takes; "
        "`ray status` says what it has, cluster.cpus_per_job in configs/service.yaml what a job takes"
    )


def _connected(address: str, service: Service, stop: StopSignal, waiting_s: float) -> Cluster:
    """The cluster, as soon as its head answers. Raises InfraError if it does not for so long."""
    deadline = time.monotonic() + waiting_s
    while True:
        try:
            return Cluster.connect(address, service.cluster)
        except InfraError:
            if time.monotonic() >= deadline:
                raise
        with stop.armed():
            time.sleep(1.0)


def _now() -> datetime:
    return datetime.now(UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and coordinate; the way in for `ranker.executors.ray`."""
    parser = argparse.ArgumentParser(prog="python -m ranker.coordinator", description=__doc__)
    parser.add_argument("--address", required=True, help="the head of the cluster")
    parser.add_argument("--nodes", action="store_true", help="only say, as JSON, which machines the cluster has")
    parser.add_argument("--home", type=Path, default=Path(), help="the organizer's home folder")
    parser.add_argument("--jobs", default="", help="ids of the jobs to do, separated by commas")
    parser.add_argument("--service", help="the service's configuration as JSON")
    parser.add_argument("--hidden", type=Path, help="the file of hidden tasks")
    parser.add_argument("--parent", type=int, help="process id of the executor; the coordinator ends with it")
    parser.add_argument("--workers", type=int, help="at most so many jobs at a time")
    parser.add_argument("--performer", help="what does a job on a node, as a JSON list")
    given = parser.parse_args(arguments)
    stop = StopSignal()
    faulthandler.enable()
    if given.parent is not None:
        die_with(given.parent)
    home = Home(root=given.home, hidden=given.hidden)
    if given.service is not None:
        service = Service.model_validate_json(given.service)
    else:
        service = load(Service, home.config_path("service"))
    try:
        if given.nodes:
            print(json.dumps(Cluster.connect(given.address, service.cluster).nodes()))  # noqa: T201  for our parent
            return EXIT_DONE
        stop.install()
        cluster = _connected(given.address, service, stop, service.cluster.reconnect_s)
        stop.install()  # ray takes SIGTERM for itself
        return _coordinate(home, service, cluster, stop, given)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except RankerError as error:
        print(error, file=sys.stderr)  # noqa: T201  for our parent
        return EXIT_HOPELESS


def _coordinate(home: Home, service: Service, cluster: Cluster, stop: StopSignal, given: argparse.Namespace) -> int:
    engine = open_database(home)
    try:
        return Coordinator(
            engine=engine,
            home=home,
            service=service,
            cluster=cluster,
            stop=stop,
            workers=given.workers,
            performer=node.COMMAND if given.performer is None else tuple(json.loads(given.performer)),
        ).work([int(word) for word in given.jobs.split(",")])
    finally:
        engine.dispose()


if __name__ == "__main__":
    code = EXIT_ORGANIZER
    try:
        code = main()
    except BaseException:  # noqa: BLE001  the executor reads it, and starts another
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # ray's own farewell waits for machines that may be gone
