"""Answers to those who send: derived from the database, drafted as messages, never sent from here."""

from ranker.replies.drafting import Drafted, draft
from ranker.replies.letter import organizers
from ranker.replies.wanted import Wanted, wanted

__all__ = ["Drafted", "Wanted", "draft", "organizers", "wanted"]
