"""A process in the sandbox that means harm: it finds the link's socket and does with it what it can."""

from __future__ import annotations

from remote_env.protocol import new_id
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import row
from tests.support.server import SANDBOX

SOCKET = "/.remote-env/server.sock"
ROUNDS = "/tmp/rounds"  # in the sandbox: one byte for each round that the attacker made
ATTACK = f"""
import itertools, os, random, select, socket, struct, sys
ID = sys.argv[1].encode()
chance = random.Random(int(sys.argv[2]))

def string(data): return struct.pack("<I", len(data)) + data
def packet(kind, body, flags=0): return struct.pack("<BBHI", kind, flags, 0, len(body)) + body
ending = struct.pack("<BBBBiQQQQQII", 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0)
entry = string(ID) + struct.pack("<QB", 1, 2) + ending
def hello(version, count, entries, pipes=0):
    return struct.pack("<I16s16sQII", version, os.urandom(16), os.urandom(16), 1 << 60, pipes, count) + entries

messages = [
    lambda: packet(64, hello(1, 1, entry)), lambda: packet(64, hello(2, 1, entry)),
    lambda: packet(64, hello(2, 1 << 31, b"", 1 << 31)), lambda: packet(67, string(ID) + struct.pack("<Q", 1) + ending),
    lambda: packet(66, string(ID) + struct.pack("<QQ", 1, 1)), lambda: packet(65, struct.pack("<I", 3) + string(ID) * 3),
    lambda: packet(1, os.urandom(300)), lambda: os.urandom(chance.randrange(1, 60000)),
    lambda: struct.pack("<BBHI", 64, 1, 0, 1 << 30), lambda: struct.pack("<BBHI", 64, 1, 0, 4096), lambda: b"",
]

def odd_descriptors():
    read, write = os.pipe()
    memory = os.memfd_create("short")
    os.write(memory, b"x")
    other, more = socket.socketpair()
    poll = select.epoll()
    return [read, write, memory, other.detach(), more.detach(), poll.detach() if hasattr(poll, "detach") else os.dup(poll.fileno()),
            os.open("/", os.O_RDONLY), os.open("/dev/zero", os.O_RDWR), os.open("/proc/self/mem", os.O_RDONLY)]

for round in itertools.count():
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.setblocking(False)
    fds = []
    try:
        link.connect({SOCKET!r})
        for _ in range(chance.randrange(1, 40)):
            fds += odd_descriptors() if chance.random() < 0.2 else []
            data = chance.choice(messages)()
            socket.send_fds(link, [data], fds[-250:]) if fds else link.send(data)
            if chance.random() < 0.1:
                link.recv(1)
    except OSError:
        pass
    finally:
        link.close()
        for fd in fds:
            os.close(fd)
    with open({ROUNDS!r}, "ab") as file:
        file.write(b".")
"""


@row(
    "hostile-process",
    "a hostile process in the sandbox finds the link's socket",
    "it floods it, poses as the init, claims another command's end, passes odd descriptors, for as long as commands run",
    "sandbox",
)
def hostile_process(arena: Arena) -> None:
    ours = arena.ours
    ours.sandbox = ours.new_sandbox(image=SANDBOX, memory_bytes=512 << 20)
    victim = arena.traffic.made_of("while [ ! -e /tmp/over ]; do sleep 0.05; done; echo true end; exit 7", 7, "true end\n")
    victim_id = new_id()
    with arena.meanwhile([victim], run=lambda command: ours.run(command, id=victim_id)):
        arena.until(lambda: arena.runs()[victim.name], "the victim runs")
        attackers = [
            ours.sandbox.start(["python3", "-c", ATTACK, victim_id, str(seed)], user=user) for seed, user in enumerate(("root", "nobody"))
        ]
        arena.until(lambda: ours.sandbox.run(f"cat {ROUNDS} 2>/dev/null").text, "the attack has begun")
        arena.drive(arena.traffic.commands(arena.commands - 1))
        rounds = len(ours.sandbox.run(f"cat {ROUNDS}").text)
        for attacker in attackers:
            attacker.cancel().wait()
        ours.sandbox.run("touch /tmp/over")
    assert rounds > arena.commands // 4, f"{rounds} rounds: hardly an attack"
    arena.note(f"{rounds} connections of the attacker")
