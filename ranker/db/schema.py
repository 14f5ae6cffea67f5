"""All tables at once: importing this registers each with `Base`."""

from ranker.db import mail, models, rules
from ranker.db.base import Base

__all__ = ["Base", "mail", "models", "rules"]
