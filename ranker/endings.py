"""How an attempt ended, written into the queue: the same for a worker of this host and for a cluster's coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine

from ranker import queue, rules
from ranker.home import Home
from ranker.job import Failure, Outcome
from ranker.queue import Claim
from ranker.settings import Service
from ranker.types import Status


@dataclass(frozen=True, kw_only=True)
class Endings:
    """Writes how attempts of one home ended. Each method is one transaction, and raises LeaseLostError if the job is
    another's by now.
    """

    engine: Engine
    home: Home
    service: Service

    def succeeded(self, claim: Claim, outcome: Outcome) -> None:
        """Its result and its scores, and what follows from them by the challenge's rules."""
        queue.finish(
            self.engine,
            claim,
            now=_now(),
            result=outcome.result,
            scores=outcome.scores,
            also=rules.after_job(self.home, self.service.rules, claim.kind, claim.submission_id),
        )

    def failed(self, claim: Claim, failure: Failure) -> Status:
        """Why, and whose fault it was; returns whether the job is tried again (QUEUED) or given up."""
        return queue.fail(
            self.engine,
            claim,
            now=_now(),
            fault=failure.fault,
            reasons=failure.reasons,
            max_infra_attempts=self.service.infra_attempts,
            retry_delay_s=self.service.retry_delay_s,
        )

    def given_back(self, claim: Claim) -> None:
        """It was stopped, and costs nothing: the job is due at once."""
        queue.release(self.engine, claim, _now())


def _now() -> datetime:
    return datetime.now(UTC)
