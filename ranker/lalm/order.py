"""In which order an encoder gets its calls: by a secret, so that its place in the queue tells it nothing of a clip.

Which clips share a call is a function of the benchmark, and what a call gives is a function of its clips; so two
secrets give the same features, and no result depends on the secret. A test runs two evaluations to see that.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ranker.durable import whole_file

SECRET_BYTES = 32
FILE_NAME = "order.secret"

Keyed = TypeVar("Keyed")


@dataclass(frozen=True, kw_only=True)
class SecretOrder:
    """An order that nobody can foresee who does not have the secret; whoever has seen a part knows nothing of the
    rest.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def of_job(cls, folder: Path) -> SecretOrder:
        """The order of the job whose attempts lie in `folder`: drawn at its first attempt, and kept for the others."""
        path = folder / FILE_NAME
        try:
            return cls(secret=path.read_bytes())
        except FileNotFoundError:
            found = cls(secret=secrets.token_bytes(SECRET_BYTES))
            with whole_file(path) as temporary:
                temporary.unlink(missing_ok=True)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(found.secret)
            return found

    def shuffled(self, members: Sequence[Keyed], keys: Sequence[str]) -> list[Keyed]:
        """`members` sorted by HMAC-SHA256 of their `keys`: a function of the set alone, not of the order given."""
        marks = [hmac.digest(self.secret, key.encode(), "sha256") for key in keys]
        return [member for _, _, member in sorted(zip(marks, range(len(marks)), members, strict=True))]
