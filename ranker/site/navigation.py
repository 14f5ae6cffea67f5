"""The links that head every page of the site."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Link:
    """One page that every page leads to; `href` is relative to the site's folder."""

    href: str
    title: str


RANKING = Link(href="index.html", title="Ranking")
COMPARE = Link(href="compare.html", title="Compare")
METHOD = Link(href="method.html", title="Method")
HISTORY = Link(href="history.html", title="History")


def links(*, has_history: bool) -> tuple[Link, ...]:
    """The pages that a site has, in order. A page tells its template which one it is: `here=RANKING.href`."""
    return (RANKING, COMPARE, METHOD, *([HISTORY] if has_history else []))
