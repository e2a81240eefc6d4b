"""`remote-env serve`: one server process, from its first check to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from remote_env.protocol import INPUT_LIMIT
from server import logs, tls
from server.app import create_app
from server.auth import Auth
from server.connections import HttpProtocol
from server.datadir import CannotStart, DataDirLock, read_or_make_token, readable_by_others
from server.failpoints import FailpointError, arm
from server.gate import STREAM
from server.journal import JournalError
from server.lifetime import Lifetime
from server.listen import BACKLOG, CannotListen, bind, is_loopback
from server.metrics import Metrics
from server.restarts import Restarts
from server.settings import Settings, unknown_variables

if TYPE_CHECKING:
    from server.api.services import Services

log = logging.getLogger("server.main")

KEEP_ALIVE_S = 300  # clients let idle connections go after 30 s, so ours are never the first to be closed
_PING_EVERY_S, _PONG_WITHIN_S = 15.0, 20.0  # seconds, on a WebSocket
_DRAIN_S = 10  # seconds that answers under way get once the server stops
_STALLED_S = 0.2  # of which nothing is read within so many is cut
_OPEN_FILES = 65536  # descriptors wanted at most: three for each execution, one for each connection

MakeServices = Callable[[Settings, Metrics, Callable[[BaseException], None]], "Services"]
"""Settings, metrics, and what to call when memory can no longer be trusted → the services."""


def serve(settings: Settings, make_services: MakeServices | None = None) -> int:
    """Run a server until it is told to stop (SIGTERM, SIGINT; a second one ends it at once, which loses nothing).

    Args:
        make_services: what does the work behind the routes; default: the real `server.world.World`.
    Returns:
        The process's exit code: 0 after an orderly stop, 1 when it could not start (the log says why).
    """
    _occupy_standard_descriptors()
    restarts = Restarts()
    writer = logs.configure(settings.log_format, settings.log_level)
    lifetime = Lifetime()
    lock: DataDirLock | None = None
    failure: Exception | None = None
    try:
        os.umask(0o077)
        arm(os.environ)
        _raise_open_files()
        lock = DataDirLock(settings.data_dir)
        uvloop.run(_run(settings, make_services or _world, lifetime, writer))
    except (CannotStart, CannotListen, JournalError, FailpointError) as error:
        log.error("cannot start", extra={"reason": str(error)})
        failure = error
    except Exception as error:
        log.critical("server failed", exc_info=error)
        failure = error
    if failure is not None and restarts.within_one:
        lifetime.restart(str(failure))
    if lifetime.restart_reason is not None:
        if restarts.wait(lifetime.restart_reason):
            writer.close()
            restarts.start_again()
        log.info("stopped")
        failure = None
    if lock is not None:
        lock.release()
    writer.close()
    return 0 if failure is None else 1


def _world(settings: Settings, metrics: Metrics, on_fatal: Callable[[BaseException], None]) -> Services:
    from server.world import World

    return World(settings, metrics, on_fatal)


async def _run(settings: Settings, make_services: MakeServices, lifetime: Lifetime, writer: logs.Writer) -> None:
    token, made = read_or_make_token(settings.token_path)
    if readable_by_others(settings.token_path):
        log.warning("token file can be read by others", extra={"file": settings.token_path, "mend": f"chmod 600 {settings.token_path}"})
    for name in unknown_variables(os.environ):
        log.warning("environment variable is no setting", extra={"variable": name})
    certificate = _certificate(settings)
    sockets = bind(settings.host, settings.port)
    metrics = Metrics()
    services = make_services(settings, metrics, lambda error: lifetime.restart(str(error)))
    names = settings.allowed_hosts if is_loopback(settings.host) else (*settings.allowed_hosts, *tls.own_names())
    _obey_signals(lifetime, writer)
    await services.start()
    app = create_app(services, settings, Auth(token, settings.host, names), metrics, lifetime)
    server = _Server(
        uvicorn.Config(
            app, http=HttpProtocol, ws="websockets-sansio", ws_max_size=INPUT_LIMIT, ws_ping_interval=_PING_EVERY_S,
            ws_ping_timeout=_PONG_WITHIN_S, ws_per_message_deflate=False,
            lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=_DRAIN_S, backlog=BACKLOG,
            ssl_certfile=str(certificate.cert) if certificate else None, ssl_keyfile=certificate.key if certificate else None,
        )
    )  # fmt: skip
    lifetime.on_stop(server.stop)
    log.info(
        "listening",
        extra={
            "url": _url(settings, sockets), "data_dir": settings.data_dir, "token_file": settings.token_path, "token_made": made or None,
            "fingerprint": certificate.fingerprint() if certificate else None, "pid": os.getpid(), "instance_id": services.instance_id,
        },
    )  # fmt: skip
    gc.freeze()  # what is there now stays: whoever looks for garbage need not go through it again and again
    try:
        await server.serve(sockets)
    finally:
        lifetime.stop()
        if lifetime.restart_reason is None:
            await services.stop(settings.remove_on_exit)
            log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, without its hold on the signals: ours stop the routes before the sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Accept no connection any more, and return from `serve` when the answers under way have been sent."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut_stalled())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)

    async def _cut_stalled(self) -> None:
        """uvicorn waits until what it has written was sent and, over TLS, until the peer has said goodbye. A consumer that does
        not read must not hold up the stop; one that follows a stream must not either, however slowly it reads: it comes
        again. Whether anybody reads can only be seen by looking twice at what is unsent."""
        before: dict[asyncio.Transport, int] = {}
        while True:
            waited_for = {}
            for connection in self.server_state.connections:
                transport = connection.transport
                unsent = transport.get_write_buffer_size()
                if not unsent and not transport.is_closing():
                    continue  # its answer is still being made
                waited_for[transport] = unsent
                if transport in before and (before[transport] == unsent or _is_stream(connection)):
                    transport.abort()
            before = waited_for
            await asyncio.sleep(_STALLED_S)


def _is_stream(connection: object) -> bool:
    return isinstance(connection, HttpProtocol) and connection.cycle is not None and STREAM in connection.cycle.scope


def _certificate(settings: Settings) -> tls.Certificate | None:
    if settings.tls_self_signed:
        certificate = tls.self_signed(settings.data_dir / "tls", [settings.host, *settings.allowed_hosts])
    elif settings.tls_cert is not None and settings.tls_key is not None:
        certificate = tls.Certificate(settings.tls_cert, settings.tls_key)
    else:
        return None
    certificate.check()
    return certificate


def _url(settings: Settings, sockets: list[socket.socket]) -> str:
    host = settings.host if ":" not in settings.host else f"[{settings.host.strip('[]')}]"
    return f"{'https' if settings.tls else 'http'}://{host}:{sockets[0].getsockname()[1]}"


def _obey_signals(lifetime: Lifetime, writer: logs.Writer) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if lifetime.stopping:
            # Whoever is impatient may be: the journal is as good after this as after an orderly stop.
            log.warning("stopped at once", extra={"signal": number.name})
            writer.close()
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        lifetime.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _occupy_standard_descriptors() -> None:
    """Started with stdin, stdout or stderr closed, the next file opened would become one of them, and a library that
    prints would write into the journal."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if fd == 0 else os.O_WRONLY)  # takes the lowest free one: fd
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
