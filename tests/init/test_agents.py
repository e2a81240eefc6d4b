"""File agents: that they are started, as whom, and what is left of them. What they do is tested with the server's half."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from server import messages
from server.messages import FilesReady
from tests.init.harness import Init, Server
from tests.init.processes import alive, children


def agent(server: Server, user: str = "", request: int = 7) -> socket.socket:
    server.send(messages.files(request, user))
    assert server.link is not None
    data, fds, _, _ = socket.recv_fds(server.link, messages.PACKET_LIMIT, 4, socket.MSG_CMSG_CLOEXEC)
    answer = messages.parse(messages.header(data)[0], messages.packet_body(data))
    assert answer == FilesReady(request, 0)
    (fd,) = fds
    end = socket.socket(fileno=fd)
    assert (end.family, end.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return end


def greeting(end: socket.socket) -> int:
    return messages.agent_error(end.recv(messages.PACKET_LIMIT))


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(("user", "uid"), [("", "0"), ("nobody", "65534"), ("1234", "1234")])
def test_agent_has_its_user_s_identity_and_nothing_open(init: Init, user: str, uid: str) -> None:
    with agent(init.server, user) as end:
        assert greeting(end) == 0
        (pid,) = children(init.pid)
        assert status(pid)["Uid"] == [uid] * 4
        links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert len([link for link in links if link.startswith(("socket:", "pipe:"))]) == 1


def test_agent_ends_with_its_socket_and_is_forgotten(init: Init) -> None:
    for _ in range(100):  # more than there may be at once
        with agent(init.server) as end:
            assert greeting(end) == 0
            (pid,) = children(init.pid)
        while alive(pid) or children(init.pid):
            init.server.all_said()


def test_unknown_user_is_told_in_the_first_packet(server: Server) -> None:
    with agent(server, "no-such-user") as end:
        assert greeting(end) == errno.ENOENT
        assert end.recv(1) == b""


def test_agents_are_counted(server: Server) -> None:
    ends = [agent(server) for _ in range(64)]
    server.send(messages.files(8, ""))
    assert server.link is not None
    data, fds, _, _ = socket.recv_fds(server.link, messages.PACKET_LIMIT, 4)
    assert messages.parse(messages.header(data)[0], messages.packet_body(data)) == FilesReady(8, errno.EAGAIN)
    assert not fds
    for end in ends:
        end.close()


def test_killed_agent_costs_nobody_else_anything(init: Init) -> None:
    with agent(init.server) as end:
        assert greeting(end) == 0
        (pid,) = children(init.pid)
        run = init.server.run("sleep 0.2; echo whole")
        os.kill(pid, 9)
        assert end.recv(1) == b""
    init.server.finished(run)
    assert run.text == "whole\n"
