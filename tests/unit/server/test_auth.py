"""Who may ask."""

from __future__ import annotations

import pytest

from remote_env.protocol import new_id
from server.auth import Auth, Credentials
from tests.unit.server.fakes import SANDBOX
from tests.unit.server.harness import EPOCH_OF_SANDBOX, TOKEN, RunningServer, assert_problem


def verdict(auth: Auth, host: str | None, *, origin: str | None = None, authorization: str | None = f"Bearer {TOKEN}") -> str | None:
    encoded = [None if text is None else text.encode("latin-1") for text in (host, origin, authorization)]
    problem = auth.refusal(Credentials(*encoded))
    return None if problem is None else problem.code


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"bearer {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff"],
)
def test_anything_but_the_token_is_unauthorized(authorization: str | None) -> None:
    assert verdict(Auth(TOKEN), "127.0.0.1", authorization=authorization) == "unauthorized"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9527", "localhost", "LOCALHOST:1", "localhost.", "[::1]", "[::1]:9527", "127.1.2.3:80"]
)  # fmt: skip
def test_loopback_names_and_addresses_are_always_allowed(host: str) -> None:
    assert verdict(Auth(TOKEN), host) is None
    assert verdict(Auth(TOKEN, "0.0.0.0"), host) is None


@pytest.mark.parametrize(
    "host",
    [
        None, "", "evil.example", "evil.example:9527", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5", "[::1", "[::1]x",
        "::1", "127.0.0.1:x", "[2001:db8::1]:9527", "localhost:1:2", "\xff",
    ],
)  # fmt: skip
def test_names_of_others_are_forbidden_on_a_loopback_server(host: str | None) -> None:
    assert verdict(Auth(TOKEN), host) == "forbidden"


def test_reachable_server_answers_to_addresses_and_to_its_names_alone() -> None:
    auth = Auth(TOKEN, "0.0.0.0", ["build-7", "Build-7.Example."])
    for host in ("192.168.1.5:9527", "[2001:db8::1]:9527", "build-7", "BUILD-7.example:9527"):
        assert verdict(auth, host) is None
    assert verdict(auth, "evil.example") == "forbidden"


def test_allowed_host_is_allowed_on_a_loopback_server() -> None:
    assert verdict(Auth(TOKEN, "127.0.0.1", ["tunnel.example"]), "tunnel.example:443") is None


def test_origin_and_host_are_judged_before_the_token() -> None:
    """A web page must not learn from the status whether it guessed the token."""
    assert verdict(Auth(TOKEN), "127.0.0.1", origin="http://127.0.0.1:9527") == "forbidden"
    assert verdict(Auth(TOKEN), "127.0.0.1", origin="null", authorization=None) == "forbidden"
    assert verdict(Auth(TOKEN), "evil.example", authorization=None) == "forbidden"


def test_many_host_headers_do_not_fill_memory() -> None:
    auth = Auth(TOKEN)
    for number in range(1000):
        assert verdict(auth, f"host-{number}.example") == "forbidden"
    assert len(auth._verdicts) <= 256


@pytest.mark.parametrize("path", ["/v1/sandboxes", "/v1/executions", "/execute", "/metrics", "/openapi.json", "/nowhere"])
def test_every_path_but_health_asks_for_the_token(server: RunningServer, path: str) -> None:
    reply = server.request("GET", path, headers={"Authorization": None})
    assert_problem(reply, "unauthorized")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_web_pages_and_foreign_hosts_get_nothing_not_even_health(server: RunningServer) -> None:
    assert_problem(server.request("GET", "/health", headers={"Origin": "http://127.0.0.1"}), "forbidden")
    assert_problem(server.request("GET", "/health", headers={"Host": "evil.example"}), "forbidden")
    assert server.services.starts == 0


@pytest.mark.parametrize(
    ("changed", "code"),
    [({"Authorization": None}, "unauthorized"), ({"Origin": "http://127.0.0.1"}, "forbidden"), ({"Host": "evil.example"}, "forbidden")],
)
def test_the_route_that_runs_commands_stands_behind_the_same_gate(server: RunningServer, changed: dict[str, str | None], code: str) -> None:
    """It passes the web framework by, and nothing else."""
    headers = {**EPOCH_OF_SANDBOX, **changed}
    body = {"id": new_id(), "command": "hang"}
    assert_problem(server.request("POST", f"/v1/sandboxes/{SANDBOX}/executions", body, headers), code)
    assert server.services.starts == 0
