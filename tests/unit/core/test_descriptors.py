"""Descriptors that come over the link."""

from __future__ import annotations

import os
import socket

from server.descriptors import close_all, receive


def test_received_descriptors_close_on_exec_so_that_a_server_started_again_does_not_keep_them() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read_end, write_end = os.pipe()
    with ours, theirs:
        socket.send_fds(theirs, [b"packet"], [read_end, write_end])
        data, fds, flags = receive(ours, 100, 8)
        assert (data, len(fds), flags & socket.MSG_CTRUNC) == (b"packet", 2, 0)
        assert not any(os.get_inheritable(fd) for fd in fds)
    close_all([*fds, read_end, write_end])
