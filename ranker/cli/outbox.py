"""`ranker outbox ...`: answers to those who sent something; drafted, looked at, and sent when someone says so."""

from __future__ import annotations

import email
import sys
from email import policy
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, err, out, print_json
from ranker.errors import InfraError, UsageError
from ranker.types import ReplyState

if TYPE_CHECKING:
    from ranker.db.mail import Reply
    from ranker.outbox import Outcome

outbox_app = typer.Typer(help="Draft, show and send answers to those who sent something.")

_OPEN = (ReplyState.DRAFTED, ReplyState.SENDING, ReplyState.FAILED)
_COLOURS = {ReplyState.SENDING: "yellow", ReplyState.FAILED: "red", ReplyState.SENT: "green"}


@outbox_app.callback(invoke_without_command=True)
def outbox(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also answers that were sent or dropped.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Draft the answers that are due, and list those that were not sent.

    Each is a message in outbox/ of the home, which may be edited. Nothing is sent but by `ranker outbox send`.
    """
    if context.invoked_subcommand is not None:
        return
    service: services.Ranker = context.obj
    drafted = service.draft_answers()
    found = service.answers() if everything else service.answers(_OPEN)
    if as_json:
        from ranker.outbox import reply_json

        silent = [{"message": message, "why": why} for message, why in drafted.silent.items()]
        print_json({"answers": [reply_json(each) for each in found], "unanswered": silent})
        return
    if found:
        out.print(_table(found))
        err.print("`ranker outbox show ID` shows one, `ranker outbox send --all` sends those that are drafted")
    else:
        out.print("no answer waits to be sent")
    for message, why in drafted.silent.items():
        err.print(Text(f"message {message} gets no answer: {why}"))


@outbox_app.command("show")
def outbox_show(
    context: typer.Context,
    identity: Annotated[int, typer.Argument(metavar="ID", help="The answer's number.")],
    raw: Annotated[bool, typer.Option("--raw", help="The message byte for byte, as it is sent.")] = False,
) -> None:
    """Show an answer as its recipient would see it."""
    service: services.Ranker = context.obj
    _, content = service.answer(identity)
    if raw:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    message = email.message_from_bytes(content, policy=policy.default)
    for name in ("From", "To", "Subject", "In-Reply-To"):
        if message[name] is not None:
            out.print(Text(f"{name}: {message[name]}"))
    body = message.get_body(("plain",))
    out.print(Text("\n" + ("" if body is None else str(body.get_content()).rstrip())))


@outbox_app.command("drop")
def outbox_drop(
    context: typer.Context,
    identities: Annotated[list[int], typer.Argument(metavar="ID...", help="Numbers of answers.")],
) -> None:
    """Put answers aside for good: they are not sent, and not drafted again unless there is news."""
    service: services.Ranker = context.obj
    for identity in identities:
        dropped = service.drop_answer(identity)
        out.print(Text(f"{dropped.id}  {dropped.kind} to {dropped.recipient}: {dropped.state}"))


@outbox_app.command("send")
def outbox_send(
    context: typer.Context,
    identities: Annotated[
        list[int] | None, typer.Argument(metavar="ID...", help="Numbers of answers, drafted or failed.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every answer that is drafted.")] = False,
    again: Annotated[
        list[int] | None,
        typer.Option(
            "--again", metavar="ID", help="Send this one though it may have been sent; several times for several."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send answers through the server of configs/service.yaml (SMTP, always with TLS), each at most once.

    One that a crash or a lost connection left in doubt is told, and not sent again unless --again names it.
    """
    service: services.Ranker = context.obj
    chosen = list(dict.fromkeys(identities or []))
    if everything == bool(chosen) and not (again and not everything):
        raise UsageError("say which answers to send: their numbers, or --all")
    if everything:
        service.draft_answers()
        drafted = service.answers([ReplyState.DRAFTED])
        chosen = [each.id for each in drafted]
        doubtful = [each for each in service.answers([ReplyState.SENDING]) if each.id not in (again or [])]
        for each in doubtful:
            err.print(Text(f"{each.id}  to {each.recipient} may have been sent; --again {each.id} sends it again"))
    outcomes = []
    for those, insisting in ((chosen, False), (again or [], True)):
        if those:
            for outcome in service.send_answers(those, again=insisting):
                outcomes.append(outcome)
                if not as_json:
                    _tell(outcome)
    if as_json:
        print_json([each.to_json() for each in outcomes])
    elif not outcomes:
        out.print("no answer is drafted")
    if any(each.why is not None for each in outcomes):
        raise typer.Exit(InfraError.exit_code)


def _tell(outcome: Outcome) -> None:
    line = f"{outcome.id}  {outcome.recipient}: "
    if outcome.why is None:
        out.print(Text(line + "sent"))
    else:
        err.print(Text(f"{line}{outcome.state}: {outcome.why}"))


def _table(replies: list[Reply]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "kind", "state", "to", "subject", "submission"):
        table.add_column(name, overflow="fold")
    for each in replies:
        state = ReplyState(each.state)
        said = "may have been sent" if state is ReplyState.SENDING else str(state)
        if each.failure and state in {ReplyState.FAILED, ReplyState.DRAFTED}:
            said += f": {each.failure}"
        table.add_row(
            str(each.id),
            each.kind,
            Text(said, style=_COLOURS.get(state, "")),
            Text(each.recipient),
            Text(each.subject),
            each.submission_id or "",
        )
    return table
