"""The queue of jobs in the database: leases, fencing, retries, and the pause. The only writer of `Job.status`.

A worker owns a job as long as the row names its worker and attempt. Every later write matches both, so whatever a
worker does after its job was given to another is refused with LeaseLostError. Time comes in as `now`; a clock that
jumps can cost repeated work, never two results.

`moves`: which states follow which, and the history of attempts. `claims`: what a worker does. `orders`: what organizers
do. `pausing`: when no job is handed out. `identity`: names of jobs and of processes.
"""

from ranker.queue.claims import (
    MAX_COORDINATORS,
    MAX_RETRY_DELAY_S,
    Claim,
    NewScore,
    claim,
    fail,
    finish,
    heartbeat,
    is_asked_back,
    next_due,
    reap,
    release,
)
from ranker.queue.identity import coordinator_id, is_dead_here, job_key, worker_id
from ranker.queue.moves import MOVES
from ranker.queue.orders import EVIDENCE_PRIORITY, cancel, enqueue, first_priority, prioritize, retry
from ranker.queue.pausing import pause, paused, resume

__all__ = [
    "EVIDENCE_PRIORITY",
    "MAX_COORDINATORS",
    "MAX_RETRY_DELAY_S",
    "MOVES",
    "Claim",
    "NewScore",
    "cancel",
    "claim",
    "coordinator_id",
    "enqueue",
    "fail",
    "finish",
    "first_priority",
    "heartbeat",
    "is_asked_back",
    "is_dead_here",
    "job_key",
    "next_due",
    "pause",
    "paused",
    "prioritize",
    "reap",
    "release",
    "resume",
    "retry",
    "worker_id",
]
