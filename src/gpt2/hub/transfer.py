"""One file over HTTP, whole or not at all: resumed after a break, and checked before it gets its name.

The server is not trusted: the amount, offset and content of what it sends are compared with what was announced. If the
connection breaks or the user stops it, a part file keeps what has arrived, and the next attempt asks for the rest.
"""

import hashlib
import http.client
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt2.errors import DownloadError
from gpt2.files import make_folder, remove_intruder

Progress = Callable[[int], None]  # takes new bytes; negative if arrived bytes were discarded

ATTEMPTS = 5  # in a row that bring almost nothing
_TIMEOUT_SECONDS = 30.0
_PIECE_BYTES = 1 << 20
_UNKNOWN_LIMIT_BYTES = 64 << 20  # of a file whose length is not known: all of them are small
_NEXT_TO_NOTHING_BYTES = 256 << 10
_LONGEST_PAUSE_SECONDS = 300.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger("gpt2")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file on a server, as its index announces it.

    Attributes:
        name: its name in the model's folder.
        url: where it is.
        bytes: its length; None if unknown.
        sha256: of its content, in hexadecimal; None if unknown.
        git_sha1: of its content as a git blob, if that is known instead.
    """

    name: str
    url: str
    bytes: int | None
    sha256: str | None = None
    git_sha1: str | None = None


def fetch(
    file: RemoteFile,
    goal: Path,
    *,
    part: Path,
    headers: Mapping[str, str] | None = None,
    progress: Progress = lambda more: None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch a file to `goal`, resuming from `part` if that exists.

    Args:
        file: what to fetch, and from where.
        goal: appears when everything has arrived with the right hash.
        part: what has arrived so far; stays if this fails.
        headers: sent only to the server that `file` names, not after a redirect to another.
        progress: called with the number of bytes that arrived.
        pause: waits before a retry.

    Raises:
        DownloadError: the server refuses, cannot be reached, or sends something else than it announced.
        OSError: the disk is full, or the folder cannot be written.
    """
    failures, thrown_away = 0, False
    make_folder(part.parent)
    remove_intruder(part)
    reached = part.stat().st_size if part.is_file() else 0
    progress(reached)
    while True:
        asked_seconds = 0.0
        try:
            total = _fetch_rest(file, part, headers or {}, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in (408, 425, 429, 500, 502, 503, 504):
                raise refused(file.url, error) from error
            fault = f"the server answered {error.code} {_why(error.reason)}"
            asked_seconds = _retry_after(error)
        except urllib.error.URLError as error:
            fault = _why(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, ValueError) as error:
            fault = _why(error)
        else:
            size = part.stat().st_size
            if total is None or size == total:
                if (wrong := wrong_hash(part, sha256=file.sha256, git_sha1=file.git_sha1)) is None:
                    break
                progress(-size)
                part.unlink()
                if thrown_away:
                    raise DownloadError(
                        f"{file.name} cannot be downloaded: what {_server(file.url)} sent is damaged or is another "
                        f"file: {wrong}. Nothing of it was kept. Try again later, or another mirror."
                    )
                log.warning("%s arrived damaged (%s): starting again from the beginning", file.name, wrong)
                thrown_away, reached, failures = True, 0, 0
                continue
            fault = f"the connection ended after {size:,} of {total:,} bytes"
        size = part.stat().st_size if part.is_file() else 0
        failures = failures + 1 if size < reached + _NEXT_TO_NOTHING_BYTES else 1
        reached = size
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"{file.name} cannot be downloaded from {_server(file.url)}: {fault}, after {ATTEMPTS} attempts. "
                f"What has arrived is kept: run it again to go on from there."
            )
        seconds = min(_LONGEST_PAUSE_SECONDS, max(2.0 ** (failures - 1), asked_seconds))
        log.info("%s: %s; attempt %d of %d in %.0f s", file.name, fault, failures + 1, ATTEMPTS, seconds)
        pause(seconds)
    part.replace(goal)


def read_url(url: str, *, limit_bytes: int, headers: Mapping[str, str] | None = None) -> bytes:
    """The content at an address, of at most `limit_bytes`.

    Raises:
        DownloadError: the server refuses, cannot be reached, or sends more.
    """
    try:
        with _open(url, headers or {}, {}) as response:
            data = response.read(limit_bytes + 1)
            announced = _announced(response)
    except urllib.error.HTTPError as error:
        error.close()
        raise refused(url, error) from error
    except urllib.error.URLError as error:
        raise _unreachable(url, error.reason) from error
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: a chunk of a negative length
        raise _unreachable(url, error) from error
    if len(data) > limit_bytes or (announced is not None and announced != len(data)):
        raise DownloadError(
            f"{url} cannot be read: {len(data):,} bytes came, and the server announced {announced}; at most "
            f"{limit_bytes:,} are read. Try again later."
        )
    return data


def _fetch_rest(file: RemoteFile, part: Path, headers: Mapping[str, str], progress: Progress) -> int | None:
    """Append what is missing to the part file; return the whole length, if known."""
    begin = part.stat().st_size if part.is_file() else 0
    if file.bytes is not None and begin >= file.bytes:
        if begin > file.bytes:  # a part of another version, or of another file
            progress(-begin)
            part.unlink()
            begin = 0
        elif begin == file.bytes and begin > 0:
            return file.bytes
    wanted = {"Range": f"bytes={begin}-"} if begin else {}
    try:
        response = _open(file.url, headers, wanted)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not begin:
            raise
        error.close()  # the file has no such offset: our part is of another one
        progress(-begin)
        part.unlink()
        raise http.client.HTTPException("the server has fewer bytes than had arrived") from error
    with response:
        total = file.bytes
        if begin and not _goes_on(response, begin, total):
            progress(-begin)
            if response.status == 206:
                part.unlink()  # so that the next attempt asks for the whole
                raise http.client.HTTPException("the server sent another part than it was asked for")
            begin = 0
        if total is None and (length := _announced(response)) is not None:
            total = begin + length
        most = _UNKNOWN_LIMIT_BYTES if file.bytes is None else file.bytes
        with part.open("r+b" if begin else "wb") as out:
            out.seek(begin)
            out.truncate()
            position = begin
            while piece := response.read(_PIECE_BYTES):
                if position + len(piece) > most:
                    out.truncate(0)
                    progress(-position)
                    raise DownloadError(
                        f"{file.name} cannot be downloaded: {_server(file.url)} sends more than the {most:,} bytes "
                        f"that {'such a file may have' if file.bytes is None else 'were announced'}. Try again later, "
                        f"or another mirror."
                    )
                out.write(piece)
                position += len(piece)
                progress(len(piece))
            out.flush()
            os.fsync(out.fileno())
    return total


def _announced(response: Any) -> int | None:
    """The length that an answer announces, if it announces one."""
    said = response.headers.get("Content-Length") or ""
    return int(said) if re.fullmatch("[0-9]{1,18}", said) else None


def _goes_on(response: Any, begin: int, total: int | None) -> bool:
    """Whether the answer is the requested rest; a server may send the whole file, or another part, instead."""
    found = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("/")
    first = found[0].partition("-")[0]
    return response.status == 206 and first == str(begin) and (total is None or found[2] in ("*", str(total)))


def wrong_hash(path: Path, *, sha256: str | None = None, git_sha1: str | None = None) -> str | None:
    """How a file's hash differs from the right one, in words; None if it is right or none is known."""
    if sha256 is not None:
        name, wanted, digest = "SHA-256", sha256, hashlib.sha256()
    elif git_sha1 is not None:
        name, wanted = "git hash", git_sha1
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return None
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    found = digest.hexdigest()
    return None if found == wanted else f"its {name} is {found}, not {wanted}"


def _open(url: str, private: Mapping[str, str], headers: Mapping[str, str]) -> Any:
    """Open an address, over TLS or on this machine; `private` headers go only to that server."""
    try:
        return _open_address(url, private, headers)
    except ValueError as error:  # this address, or one that it redirects to, is invalid
        raise DownloadError(
            f"{url} cannot be downloaded: it is no address, or leads to what is none ({error}). Check HF_ENDPOINT, or "
            f"try another mirror."
        ) from error


def _open_address(url: str, private: Mapping[str, str], headers: Mapping[str, str]) -> Any:
    split = urlsplit(url)
    if split.scheme != "https" and not (split.scheme == "http" and split.hostname):
        raise DownloadError(f"{url} cannot be downloaded: only https and http addresses are. Check HF_ENDPOINT.")
    request = urllib.request.Request(url, headers={"User-Agent": "gpt2kit", "Accept-Encoding": "identity", **headers})
    if split.scheme == "https" or split.hostname in _LOOPBACK:  # never unencrypted over a network
        for name, value in private.items():
            request.add_unredirected_header(name, value)
    return urllib.request.build_opener(_Redirects(private)).open(request, timeout=_TIMEOUT_SECONDS)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from TLS to plain HTTP, and sends private headers only to the same server."""

    def __init__(self, private: Mapping[str, str]) -> None:
        self._private = private

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme == "http"):
            raise DownloadError(
                f"{req.full_url} cannot be downloaded: the server leads to {newurl[:200]}, which is not encrypted. "
                f"Try another mirror."
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            for name, value in self._private.items():
                if req.has_header(name):
                    request.add_unredirected_header(name, value)
        return request


def _retry_after(error: urllib.error.HTTPError) -> float:
    """The seconds that a server asks to wait; 0 if it says nothing, or a date."""
    said = (error.headers.get("Retry-After") or "").strip() if error.headers else ""
    return float(said) if re.fullmatch("[0-9]{1,9}", said) else 0.0


def refused(url: str, error: urllib.error.HTTPError) -> DownloadError:
    """The error for an answer that an immediate retry would not change."""
    server, code = _server(url), error.code
    if code in (401, 403):
        return DownloadError(
            f"{url} cannot be downloaded: {server} answered {code}, which means that it is private, gated, or not "
            f"there. Check the name; for a private model set HF_TOKEN."
        )
    if code == 404:
        return DownloadError(f"{url} cannot be downloaded: {server} has nothing there (404). Check the name.")
    if code in (301, 302, 303, 307, 308):
        return DownloadError(
            f"{url} cannot be downloaded: {server} answered {code}, a redirection that goes in a circle or to an "
            f"address that is not followed. Check HF_ENDPOINT, or try another mirror."
        )
    seconds = _retry_after(error)
    when = f"in {seconds:,.0f} seconds" if seconds else "later"
    return DownloadError(f"{url} cannot be downloaded: {server} answered {code}. Try again {when}.")


def _unreachable(url: str, reason: object) -> DownloadError:
    return DownloadError(
        f"{_server(url)} cannot be reached: {_why(reason)}. Check the network, or name a mirror in HF_ENDPOINT."
    )


def _why(reason: object) -> str:
    text = f"{type(reason).__name__}: {reason}" if isinstance(reason, BaseException) else str(reason)
    text = " ".join(text.split())  # a server's text may hold line ends
    advice = " (the certificates of this Python may be missing: SSL_CERT_FILE names them)"
    return text[:300] + advice if "CERTIFICATE_VERIFY_FAILED" in text else text[:300]


def _server(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
