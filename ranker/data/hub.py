"""The model hub, through its own client: which commit a revision is, what lies there, and one file, resumed.

`HF_ENDPOINT`, `HF_TOKEN` (or the token that `hf auth login` stored), `HF_HUB_OFFLINE` and the proxies' variables mean
what they mean to that client. Files come over plain HTTP with ranges, since the client's own downloads begin a file
anew after a kill.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ranker.data.lock import LockedFile, Source, digests
from ranker.errors import InfraError, MissingError, OrganizerError, RankerError
from ranker.types import RepoKind

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

_PIECE_BYTES = 1 << 20
_TRIES = 5  # in a row that brought nothing
_LONGEST_WAIT_S = 3600.0
_FOR_LATER = frozenset({408, 429, 500, 502, 503, 504})

Answer = TypeVar("Answer")


class Hub:
    """One hub, for the threads of one fetch. `endpoint` None: `HF_ENDPOINT`, else the public hub.

    Once `stop` is set, what waits or downloads ends with an InfraError.
    """

    def __init__(self, *, endpoint: str | None = None, offline: bool = False) -> None:
        from huggingface_hub import constants

        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.offline = offline or is_offline()
        self.stop = threading.Event()

    def commit(self, source: Source) -> str:
        """The commit that the source's revision stands for now."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint)
        found = self._patiently(
            source,
            lambda: api.repo_info(source.repo, revision=source.revision, repo_type=source.kind, timeout=_timeout_s()),
        )
        if found.sha is None:
            raise self._no_hub(f"it names no commit for the {source}")
        return found.sha

    def committed_at(self, source: Source) -> datetime | None:
        """When the source's revision was made, as the hub says; None where it does not answer, or does not say."""
        from httpx2 import HTTPError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(endpoint=self.endpoint)
        try:
            found = api.repo_info(
                source.repo, revision=source.revision, repo_type=source.kind, timeout=_timeout_s()
            ).last_modified
        except (HfHubHTTPError, HTTPError, OSError, ValueError):
            return None
        return found

    def files(self, source: Source, commit: str) -> dict[str, LockedFile]:
        """Every file of the source at a commit, by its path."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        def listing() -> dict[str, LockedFile]:
            api = HfApi(endpoint=self.endpoint)
            found = api.list_repo_tree(source.repo, recursive=True, revision=commit, repo_type=source.kind)
            return {each.path: _locked(each) for each in found if isinstance(each, RepoFile)}

        return self._patiently(source, listing)

    def cached(self, source: Source, commit: str, path: str) -> Path | None:
        """The file in the hub client's own cache of this machine, if it is there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.repo, path, revision=commit, repo_type=source.kind)
        return Path(found) if isinstance(found, str) else None

    def download(
        self,
        source: Source,
        commit: str,
        path: str,
        *,
        expected: LockedFile,
        part: Path,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> str:
        """Bring one file into `part`, going on after the bytes that it already has; returns its SHA-256.

        `on_bytes` is told how many bytes have come or, where some had to be thrown away, a negative number. Raises
        OrganizerError where twice in a row the content is not the expected one (nothing of it is kept then),
        MissingError where the hub does not give it, InfraError where the hub or the way to it fails.
        """
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(source.repo, path, repo_type=source.kind, revision=commit, endpoint=self.endpoint)
        part.touch()
        for _ in range(2):
            came = True
            while came and part.stat().st_size < expected.bytes:
                came = self._patiently(source, lambda: self._append(url, part, expected.bytes, on_bytes), path)
            sha256, git_sha1 = digests(part)
            if part.stat().st_size == expected.bytes and expected.accepts(sha256, git_sha1):
                return sha256
            on_bytes(-part.stat().st_size)
            part.unlink()
            part.touch()
        part.unlink()
        raise OrganizerError(
            f"{path} of the {source} at commit {commit[:12]} came twice with other bytes than those that are pinned "
            f"({expected.bytes} bytes, digest {expected.name}); nothing of it was kept; is there a proxy in between?"
        )

    def _append(self, url: str, part: Path, size: int, on_bytes: Callable[[int], None]) -> bool:
        """One request for what `part` lacks, written as it comes; returns whether anything came.

        A connection that breaks after some bytes is no error: these are kept, and the caller asks for the rest.
        """
        import httpx2
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        have = part.stat().st_size
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        came = 0
        try:
            with get_session().stream("GET", url, headers=headers, timeout=_timeout_s()) as response:
                if response.status_code == 416:  # the file ends where we are: it is shorter than the one that is meant
                    return False
                hf_raise_for_status(response)
                with part.open("ab") as file:
                    if have and not _goes_on(response, have):  # the whole file comes, whatever was asked for
                        file.truncate(0)
                        on_bytes(-have)
                        have = 0
                    for piece in response.iter_bytes(_PIECE_BYTES):
                        self._go_on()
                        came += len(piece)
                        file.write(piece)
                        on_bytes(len(piece))
                        if have + came > size:  # not the file that is meant: its digest will say so
                            return True
        except httpx2.TransportError:
            if not came:
                raise
        return came > 0

    def _patiently(self, source: Source, ask: Callable[[], Answer], path: str | None = None) -> Answer:
        """Ask, and ask again later where the hub is busy or cannot be reached, as long as it wishes or ever longer."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        for attempt in range(1, _TRIES + 1):
            self._go_on()
            wait_s = 0.5 * 2**attempt
            try:
                return ask()
            except HfHubHTTPError as error:
                asked_s = _asked_wait_s(error.response)
                if error.response.status_code not in _FOR_LATER or attempt == _TRIES or asked_s > _LONGEST_WAIT_S:
                    raise self._meaning(error, source, path) from error
                wait_s = max(wait_s, asked_s)
            except httpx2.RequestError as error:
                if attempt == _TRIES:
                    reason = str(error) or type(error).__name__
                    raise InfraError(
                        f"the hub at {self.endpoint} cannot be reached ({reason}); the same command goes on from here; "
                        "HF_ENDPOINT names another hub or mirror, and --offline takes only what is on this machine"
                    ) from error
            except (ValueError, KeyError, TypeError) as error:
                raise self._no_hub(f"its answer about the {source} cannot be read: {error!r}") from error
            self.stop.wait(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise InfraError("the fetch was stopped")

    def _no_hub(self, why: str) -> InfraError:
        return InfraError(f"{self.endpoint} does not answer as a hub does ({why}); see HF_ENDPOINT and your proxy")

    def _meaning(self, error: HfHubHTTPError, source: Source, path: str | None) -> RankerError:
        """What the hub's refusal means: InfraError where the hub is not well, else MissingError."""
        status = error.response.status_code
        if status == 429:
            return InfraError(
                f"the hub at {self.endpoint} asks to slow down (429) for {_asked_wait_s(error.response):.0f} s; type "
                "the same command later, with fewer --jobs; HF_TOKEN raises the limit"
            )
        if status in {401, 403, 404}:
            return MissingError(self._refusal(error, source, path))
        return InfraError(
            f"the hub at {self.endpoint} answered {status} for {path or f'the {source}'}; the same command goes on "
            "from here when it is well again"
        )

    def _refusal(self, error: HfHubHTTPError, source: Source, path: str | None) -> str:
        """One sentence for an answer of 401, 403 or 404, and what to do about it."""
        from huggingface_hub import errors

        response = error.response
        page = f"{self.endpoint}/{'datasets/' if source.kind is RepoKind.DATASET else ''}{source.repo}"
        if isinstance(error, errors.GatedRepoError):
            text = f"the {source} is gated: ask for access at {page}, then set HF_TOKEN to a token of that account"
        elif isinstance(error, errors.RevisionNotFoundError):
            text = f"the {source} has no revision {source.revision!r}; {page} shows which it has"
        elif isinstance(error, errors.EntryNotFoundError):
            text = f"the {source} has no file {path} at the pinned commit; {page} shows which it has"
        elif response.headers.get("X-Error-Message", "").startswith("Invalid credentials"):
            text = f"the hub at {self.endpoint} refuses the token that it was given; set HF_TOKEN to a valid one"
        elif response.status_code == 403:
            text = f"the hub forbids {path or f'the {source}'} to this token; {page} and HF_TOKEN say who may read it"
        else:
            text = (
                f"there is no {source} at {self.endpoint}, or it is private; correct its name, or set HF_TOKEN to a "
                "token that may read it"
            )
        return text


def is_offline() -> bool:
    """Whether the environment forbids to ask a hub (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def download_url(url: str, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Bring what an address outside the hub holds into `part`, going on after what is there; no token goes with it.

    Raises MissingError where the address refuses, InfraError where it cannot be reached.
    """
    import httpx2

    part.touch()
    failures = 0
    while True:
        have = part.stat().st_size
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            with (
                httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=_timeout_s()) as response,
                part.open("ab") as file,
            ):
                if response.status_code == 416:  # there is nothing behind what we have
                    return
                if response.status_code >= 400:
                    raise MissingError(f"{url} answered {response.status_code}; get that file in another way, or later")
                if have and not _goes_on(response, have):
                    file.truncate(0)
                    on_bytes(-have)
                for piece in response.iter_bytes(_PIECE_BYTES):
                    file.write(piece)
                    on_bytes(len(piece))
                return
        except httpx2.RequestError as error:
            failures = 0 if part.stat().st_size > have else failures + 1
            if failures == _TRIES:
                raise InfraError(f"{url} cannot be reached ({error}); the same command goes on from here") from error
            if failures:
                time.sleep(0.5 * 2**failures)


def _locked(file: RepoFile) -> LockedFile:
    """Large files are known by their SHA-256, small ones by git's digest."""
    if file.lfs is not None:
        return LockedFile(bytes=file.lfs.size, sha256=file.lfs.sha256)
    return LockedFile(bytes=file.size, git_sha1=file.blob_id)


def _goes_on(response: Response, have: int) -> bool:
    """Whether the answer is the part of the file that begins at byte `have`."""
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _asked_wait_s(response: Response) -> float:
    """For how long the hub wants to be left alone, by `Retry-After` (seconds or a date) or its rate limit's header."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return float(asked)
    if asked:
        try:
            until = email.utils.parsedate_to_datetime(asked)
        except ValueError:
            return 0.0
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _timeout_s() -> float:
    """Seconds without a byte after which a connection counts as dead: `HF_HUB_DOWNLOAD_TIMEOUT`, else 10."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
