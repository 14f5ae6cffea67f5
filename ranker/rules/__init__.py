"""The rules of the challenge: teams, the deadline, one model of each team; what they say of each submission."""

from ranker.rules.judging import Change, after_job, configured, judge, judge_all, outdated, standings
from ranker.rules.standing import SHOWN, missing, public_words, shown_name, standing

__all__ = [
    "SHOWN",
    "Change",
    "after_job",
    "configured",
    "judge",
    "judge_all",
    "missing",
    "outdated",
    "public_words",
    "shown_name",
    "standing",
    "standings",
]
