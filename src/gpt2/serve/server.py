"""Running the server: listening, and a graceful shutdown.

At the first SIGTERM or Ctrl-C the server stops being ready and takes no new requests, but stays reachable. Running
requests have `drain_seconds` to finish, then end with an error, and the process exits with 0. A second signal ends
that wait, a third the process; an engine that hangs in a step delays neither for long. When an engine has died, the
process exits with 1, for its supervisor to restart it.
"""

import asyncio
import contextlib
import logging
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from gpt2.errors import ConfigError, SettingError
from gpt2.serve.app import build_app
from gpt2.serve.door import LOOPBACK, EntryRules
from gpt2.serve.keys import Keys
from gpt2.serve.protocol import protocol_class
from gpt2.serve.refusing import EarlyRefusal
from gpt2.serve.service import Service

log = logging.getLogger("gpt2.serve")

FAILED = 1

_LEAVING_SECONDS = 5  # for clients to read their answers after computing has stopped
_HANGING_SECONDS = 10  # for requests that wait for a hanging engine

_HOST = re.compile(r"[0-9A-Fa-f:.]+|[!-.0-9;-~]+")  # an address, or a name without a port
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[!-.0-~]+|null")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Where a server listens, and to whom.

    Attributes:
        host: an address of this machine; loopback by default.
        port: 0 takes a free one.
        keys: a request needs one of them.
        hosts: further names that the server answers to if it listens on loopback without keys.
        origins: of pages elsewhere that may use it.
        certificate: and private_key: PEM files; with them it speaks TLS.

    Raises:
        SettingError: a host or an origin that no request can name, or a certificate that cannot be used.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=Keys)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        if not self.host:  # the system takes it as every address; an unset variable must not open the server
            raise SettingError("The server cannot listen on a host without a name. 0.0.0.0 is every address.")
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                raise SettingError(
                    f"The server cannot answer to the name {host!r:.100}: say it without a port, as in example.org."
                )
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingError(
                    f"Pages of {origin!r:.100} cannot be let in: an origin is as a browser sends it, "
                    f"https://example.org or http://localhost:3000, with nothing after it."
                )
        _check_certificate(self.certificate, self.private_key)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    def check_address(self) -> None:
        """Listen for a moment, to find out that an address is taken before models are loaded.

        Raises:
            ConfigError: the address is taken, or cannot be listened on.
        """
        _listen(self).close()

    def entry_rules(self) -> EntryRules:
        """Who may come in."""
        names = (
            tuple(dict.fromkeys((*LOOPBACK, self.host, *map(str.lower, self.hosts))))
            if self.is_loopback and not self.keys
            else None
        )
        return EntryRules(keys=self.keys, hosts=names, origins=self.origins)


class Server(uvicorn.Server):
    """A server that listens as soon as it is made, and answers once it runs.

    Args:
        service: what is served.
        options: where.

    Raises:
        ConfigError: the address is taken, or cannot be listened on.
    """

    def __init__(self, service: Service, options: Options) -> None:
        self._service = service
        self._listener = _listen(options)
        super().__init__(_uvicorn_config(service, options))
        self._ended = asyncio.Event()
        self._is_hurried = False  # a second signal came: stop draining
        self._loop: asyncio.AbstractEventLoop | None = None
        host, port = self._listener.getsockname()[:2]
        scheme = "https" if options.certificate else "http"
        self.address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def run_until_ended(self, ready: Callable[[], object] = lambda: None) -> int:
        """Serve until a signal, `stop` or a failure ends it.

        The model of an engine that is still in a step then (`Engine.is_running`) must not be closed.

        Args:
            ready: called once requests are answered.

        Returns:
            The process's exit code.
        """
        _room_for_connections(self._service.limits.connections)
        with contextlib.closing(self._listener):
            has_started = asyncio.run(self._run(ready))
        return 0 if has_started and not self._service.failure else FAILED

    def stop(self) -> None:
        """Act as on a signal. May be called from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._asked_to_end)

    async def _run(self, ready: Callable[[], object]) -> bool:
        """Whether it could start."""
        self._loop = asyncio.get_running_loop()
        for model in self._service.models:
            model.engine.on_death = lambda error: self._ended.set()
        with _signals(self.stop):
            ending = asyncio.create_task(self._end())
            announcing = asyncio.create_task(self._announce(ready))
            try:
                await self._serve([self._listener])
                return True
            except SystemExit:  # uvicorn's, where the application did not start; why is said
                return False
            finally:
                ending.cancel()
                announcing.cancel()

    async def _announce(self, ready: Callable[[], object]) -> None:
        while not self.started:
            await asyncio.sleep(0.005)
        ready()

    def _asked_to_end(self) -> None:
        if self._is_hurried:  # the third signal
            self.force_exit = self.should_exit = True
            self._drop_connections()
            for model in self._service.models:
                model.engine.leave()
        self._is_hurried = self._service.draining
        self._service.draining = True
        self._ended.set()

    async def _end(self) -> None:
        await self._ended.wait()
        if self._service.failure is None:
            await self._drain()
        # uvicorn closes idle connections; the others are still sending answers.
        asyncio.get_running_loop().call_later(_LEAVING_SECONDS, self._drop_connections)
        self.config.timeout_graceful_shutdown = _HANGING_SECONDS
        self.should_exit = True

    def _drop_connections(self) -> None:
        """Abort every connection, and so its request: some clients never read their answer."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _drain(self) -> None:
        models = list(self._service.models)
        seconds = self._service.limits.drain_seconds
        log.info("shutting down: no new requests, up to %g s for running ones", seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_hurried and not all(model.idle for model in models):
                    await asyncio.sleep(0.02)
        for model in models:
            model.break_off("The server is shutting down, and the request did not end in time. Send it again.")


def _uvicorn_config(service: Service, options: Options) -> uvicorn.Config:
    rules = options.entry_rules()
    return uvicorn.Config(
        build_app(service, rules),
        http=protocol_class(service.limits, service.metrics, EarlyRefusal(service, rules).answer),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=service.limits.header_bytes,
        timeout_keep_alive=75,  # longer than load balancers keep a connection, so that they close it
        ssl_certfile=options.certificate,
        ssl_keyfile=options.private_key,
    )


@contextlib.contextmanager
def _signals(asked_to_end: Callable[[], object]) -> Generator[None]:
    """Call back on SIGTERM and Ctrl-C while the block runs. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ["SIGINT", "SIGTERM", *(["SIGBREAK"] if sys.platform == "win32" else [])]
    numbers = [getattr(signal, name) for name in names]
    before = {number: signal.signal(number, lambda *_: asked_to_end()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_certificate(certificate: Path | None, private_key: Path | None) -> None:
    """Refuse a certificate or key that TLS cannot use, before models are loaded."""
    if certificate is None:
        if private_key is not None:
            raise SettingError(f"The key {private_key} is of no certificate: give that too, with --certificate.")
        return
    is_locked = False

    def password() -> str:
        nonlocal is_locked
        is_locked = True  # uvicorn will ask for the password when it starts
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, password)
    except (OSError, ValueError) as error:
        if is_locked:
            return
        if isinstance(error, ssl.SSLError):
            is_other = error.reason == "KEY_VALUES_MISMATCH"
            reason = "the key is another certificate's" if is_other else "no certificate with its key is in there"
        else:
            reason = error.strerror if isinstance(error, OSError) else str(error)
        files = f"{certificate} and {private_key}" if private_key else str(certificate)
        raise SettingError(
            f"The server cannot speak TLS by {files}: {reason}. Give the certificate and its key as PEM files, with "
            f"--certificate and --private-key; one file may hold both."
        ) from None


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Bounds what the system buffers for a client that does not read, besides our 64 kB; connections inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        listener.bind((options.host, options.port))
        listener.listen(2048)
    except (
        OSError,
        OverflowError,
        TypeError,
    ) as error:  # TypeError: a host that no name can be, such as half a surrogate pair
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"The server cannot listen on {options.host} port {options.port}: {reason}. "
            f"Choose another with --host and --port; --port 0 takes a free one."
        ) from error
    listener.setblocking(False)
    return listener


def _room_for_connections(connections: int) -> None:
    """Raise the process's limit of open files to what the connections need, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError, OverflowError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
