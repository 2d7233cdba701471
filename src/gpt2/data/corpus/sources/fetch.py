"""Pages over HTTP, politely and safely: robots.txt, one request a host at a time, limits on everything.

Only http and https, only public addresses: a name is resolved once, all its addresses are checked, and the connection
goes to a checked address, so that DNS rebinding cannot redirect it. Redirects follow the same rules. A cache keeps what
was fetched, and what cannot be.
"""

import concurrent.futures
import contextlib
import errno
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.robotparser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from gpt2.data.corpus.sources.fetch_cache import Cache, Fetched
from gpt2.data.corpus.sources.fetch_settings import FetchSettings
from gpt2.data.corpus.sources.http_message import decode_body

_ROBOTS_BYTES = 512 << 10
_GONE = (404, 410, 401, 403, 451)

Resolve = Callable[[str, int], list[str]]
SetAlarm = Callable[[float, Callable[[], None]], Callable[[], None]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet: not private, loopback, link-local, multicast or reserved."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None and not is_public(str(inner)):
            return False
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 behind NAT64
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


class _RefusedError(Exception):
    """An address that is not fetched, or an answer that is not accepted; `lasting` as in `Fetched`."""

    def __init__(self, why: str, *, lasting: bool = True) -> None:
        super().__init__(why)
        self.lasting = lasting


@dataclass(kw_only=True, slots=True)
class _Host:
    """A host's rules, and when it may be asked again."""

    robots: urllib.robotparser.RobotFileParser | None = None
    next_request: float = 0.0
    delay_seconds: float = 0.0
    turn: threading.Lock = field(default_factory=threading.Lock)


def set_alarm(seconds: float, ring: Callable[[], None]) -> Callable[[], None]:
    """Call `ring` after so many seconds; the returned function cancels that."""
    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    return timer.cancel


@dataclass(slots=True)
class Fetcher:
    """Fetches pages.

    Attributes:
        cache: of answers.
        settings: delays and limits.
        resolve, allowed: resolve names to addresses, and tell which may be connected to.
        now, sleep, alarm: the clock.
        was_online: whether any server has answered.
    """

    cache: Cache
    settings: FetchSettings = field(default_factory=FetchSettings)
    resolve: Resolve = resolve
    allowed: Callable[[str], bool] = is_public
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    alarm: SetAlarm = set_alarm
    was_online: bool = False
    _known: dict[str, _Host] = field(default_factory=dict[str, _Host])

    def fetch_all(self, addresses: Sequence[str]) -> list[Fetched]:
        """The answers of all addresses, in order; one thread asks each host, one request after the other."""
        by_host: dict[str, list[int]] = {}
        for place, address in enumerate(addresses):
            by_host.setdefault(_host_of(address), []).append(place)
        got: list[Fetched | None] = [None] * len(addresses)

        def ask(places: list[int]) -> None:
            for place in places:
                got[place] = self.fetch(addresses[place])

        with concurrent.futures.ThreadPoolExecutor(max_workers=self.settings.hosts) as pool:
            list(pool.map(ask, by_host.values()))
        return [one for one in got if one is not None]

    def fetch(self, address: str) -> Fetched:
        """The answer of an address; a problem is part of it, not an exception."""
        known = self.cache.get(address)
        if known is not None:
            return known
        got = self._follow(address)
        for attempt in range(1, self.settings.tries):
            if not got.problem or got.lasting or (got.offline and not self.was_online):
                break
            self.sleep(self.settings.delay_seconds * 2**attempt)
            got = self._follow(address)
        if not got.problem or got.lasting:
            self.cache.put(address, got)
        return got

    def _follow(self, address: str) -> Fetched:
        seen = [address]
        try:
            while True:
                self._ask_robots(seen[-1])
                got, target = self._request(seen[-1], self.settings.max_bytes)
                if not target:
                    return got
                target = urljoin(seen[-1], target)
                if target in seen:
                    raise _RefusedError(f"it redirects in a circle: {target}")
                if len(seen) > self.settings.redirects:
                    raise _RefusedError(f"it redirects more than {self.settings.redirects} times")
                seen.append(target)
        except _RefusedError as refused:
            return Fetched(address=seen[-1], problem=str(refused), lasting=refused.lasting)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
            return Fetched(address=seen[-1], problem=problem, lasting=False, offline=_is_offline(error))

    def _host(self, key: str) -> _Host:
        return self._known.setdefault(key, _Host(delay_seconds=self.settings.delay_seconds))

    def _ask_robots(self, address: str) -> None:
        """Refuse what the host's robots.txt forbids; if that cannot be fetched, leave the host alone for now."""
        parts = urlsplit(address)
        key = f"{parts.scheme}://{parts.netloc}"
        host = self._host(key)
        if host.robots is None:
            rules = urllib.robotparser.RobotFileParser()
            place = f"{key}/robots.txt"
            got, target = self._request(place, _ROBOTS_BYTES, is_page=False)
            for _ in range(self.settings.redirects):
                if not target:
                    break
                place = urljoin(place, target)
                got, target = self._request(place, _ROBOTS_BYTES, is_page=False)
            if got.status >= 500 or got.status == 429:
                raise _RefusedError(f"its robots.txt answers {got.status}", lasting=False)
            rules.parse(got.body.decode("utf-8", "replace").splitlines() if got.status == 200 else [])
            host.robots = rules
            asked = rules.crawl_delay(self.settings.agent)
            host.delay_seconds = max(self.settings.delay_seconds, float(asked or 0))
        if not host.robots.can_fetch(self.settings.agent, address):
            raise _RefusedError("its robots.txt forbids it")
        if host.delay_seconds > self.settings.most_delay_seconds:
            raise _RefusedError(f"its robots.txt asks for {host.delay_seconds:g} s between requests")

    def _request(self, address: str, max_bytes: int, *, is_page: bool = True) -> tuple[Fetched, str]:
        """Make one request; return the answer and where it redirects to."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _RefusedError(f"only http and https are fetched, not {parts.scheme or 'this'}")
        if parts.username or parts.password:
            raise _RefusedError("it holds a password")
        name = parts.hostname.encode("idna").decode("ascii") if not parts.hostname.isascii() else parts.hostname
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = self._host(f"{parts.scheme}://{parts.netloc}")
        with host.turn:
            wait = host.next_request - self.now()
            if wait > 0:
                self.sleep(wait)
            try:
                status, fields, body = self._exchange(parts, name, port, max_bytes)
                self.was_online = True
            finally:
                host.next_request = self.now() + host.delay_seconds
        if status in (301, 302, 303, 307, 308) and fields.get("location"):
            return Fetched(address=address, status=status), fields["location"]
        body, whole = decode_body(body, {"content-encoding": fields.get("content-encoding", "")})
        got = Fetched(address=address, status=status, content_type=fields.get("content-type", ""), body=body)
        if is_page and status != 200:
            return replace(got, body=b"", problem=f"it answers {status}", lasting=status in _GONE), ""
        if not whole or len(body) > max_bytes:
            raise _RefusedError(f"it is larger than {max_bytes:,} bytes")
        return got, ""

    def _exchange(self, parts: SplitResult, name: str, port: int, max_bytes: int) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body as sent; all that follows the connection must take at most `total_seconds`."""
        late = threading.Event()
        sock = socket.create_connection((self._check(name, port), port), timeout=self.settings.connect_seconds)

        def hang_up() -> None:
            late.set()
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS's own drops the session under a reader

        take_back = self.alarm(self.settings.total_seconds, hang_up)
        connection = http.client.HTTPConnection(name, port, timeout=self.settings.connect_seconds)
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
                if late.is_set():  # the alarm may have rung while neither socket could be shut down
                    raise TimeoutError
                sock.do_handshake()  # not before the alarm can interrupt it
            connection.sock = sock  # connected to the checked address, whatever the name resolves to now
            path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
            query = f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~-._')}" if parts.query else ""
            fields = {"User-Agent": self.settings.agent, "Accept": "text/html, */*;q=0.1", "Accept-Encoding": "gzip"}
            connection.request("GET", path + query, headers=fields)
            answer = connection.getresponse()
            body = self._read(answer, max_bytes)
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise _RefusedError(f"it took more than {self.settings.total_seconds:g} s", lasting=False) from error
            raise
        finally:
            take_back()
            connection.close()
            sock.close()
        if late.is_set():
            raise _RefusedError(f"it took more than {self.settings.total_seconds:g} s", lasting=False)
        return answer.status, {field.lower(): value for field, value in answer.getheaders()}, body

    def _check(self, name: str, port: int) -> str:
        """The address to connect to, after checking all addresses of the name."""
        addresses = self.resolve(name, port)
        if not addresses:
            raise _RefusedError(f"{name} has no address", lasting=False)
        for one in addresses:
            if not self.allowed(one):
                raise _RefusedError(f"{name} is at {one}, which is not a public address")
        return addresses[0]

    @staticmethod
    def _read(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while data := answer.read1(1 << 16):
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                raise _RefusedError(f"it is larger than {max_bytes:,} bytes")
        return b"".join(parts)


def _is_offline(error: Exception) -> bool:
    """Whether the name did not resolve or nothing was reachable, as happens to all addresses without a network."""
    unreached = (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH)
    return isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno in unreached)


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return address
