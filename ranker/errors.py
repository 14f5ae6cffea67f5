"""Every error that ranker raises on purpose, and the exit code of the command line for each.

RankerError                       1   something on our side
├── UsageError                    2   the command or its arguments are wrong
│   └── ConfigError               2   a YAML file is wrong; every mistake in it at once
├── ParticipantError              3   the submission broke its contract; never retried, told to the team
├── MissingError                  4   an engine, a model or data is missing; `ranker doctor` names it
├── InfraError                    1   our machine failed (engine died, disk full); retried with back-off
│   ├── VanishedError             1   the encoder's process was killed, nobody knows by whom; retried a few times
│   └── LeaseLostError            1   another attempt owns the job now; this one must stop writing
├── OrganizerError                1   our data or configuration is broken; the queue stops loudly
└── PausedError                   1   the queue is paused, so that nothing would be done

A message says what happened, what was expected, what was found, and the next step. It is printed without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class RankerError(Exception):
    """Root of the tree; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(RankerError):
    """The command line was used wrongly."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file is invalid."""


class ParticipantError(RankerError):
    """The submission is at fault. `reasons` holds one full sentence per violation, all that were found."""

    exit_code = 3

    def __init__(self, reasons: Sequence[str]) -> None:
        if isinstance(reasons, str):
            reasons = [reasons]
        self.reasons: tuple[str, ...] = tuple(reasons)
        super().__init__("; ".join(self.reasons))

    def __reduce__(self) -> tuple[type[ParticipantError], tuple[tuple[str, ...]]]:
        return type(self), (self.reasons,)


class MissingError(RankerError):
    """Something that must be installed or built is not there."""

    exit_code = 4


class InfraError(RankerError):
    """Our own machinery failed; the attempt is repeated and costs the team nothing."""


class VanishedError(InfraError):
    """The encoder's process was killed, and neither a limit of ours nor the machine's lack of memory explains it.

    Once, that is taken for an accident of ours; again and again, for code that kills itself.
    """


class LeaseLostError(InfraError):
    """The job was given to another attempt: this attempt may write nothing more."""


class OrganizerError(RankerError):
    """Our data or configuration is broken, and would break every further job too."""


class PausedError(RankerError):
    """The queue is paused: what was asked for waits."""
