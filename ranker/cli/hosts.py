"""`ranker allow-host`: one more host that a submission may fetch its weights from, at intake."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, out, print_json


def allow_host(
    context: typer.Context,
    submission: Annotated[str, typer.Argument(metavar="ID", help="An id, its beginning, or a team.")],
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="A name such as example.org; example.org:8443 for a port.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Let a submission fetch its weights from one more host.

    The hosts of configs/service.yaml are allowed for all. `ranker ingest` on the same ZIP checks it again.
    """
    service: services.Ranker = context.obj
    allowed = service.allow_host(submission, host)
    if as_json:
        print_json(allowed)
        return
    for each in allowed:
        out.print(Text(f"{each['host']}  allowed {each['allowed_at']} by {each['allowed_by']}"))
    out.print(Text("`ranker ingest` on its ZIP checks it again"))
