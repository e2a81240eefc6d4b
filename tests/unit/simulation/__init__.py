"""The whole delivery in one process: the real tables of server and client in a simulated world that fails in every way.

    ledger.py     what really happened, and the promises P1 to P8 that are checked against it
    bodies.py     what commands do        talks.py    what was said in a session, and in whose output it belongs
    pipe.py       a command's pipe and its spool file        init.py      PID 1 of a sandbox, and its link
    disk.py       the journal and the spool: what outlives a server        engine.py   containers
    server/       carries out the tables' instructions: executions.py, links.py, sandboxes.py, requests.py
    clients.py    callers: `remote_env.delivery.Delivery` on a network that loses and copies
    world.py      all of it together, and the end of a history, when nothing fails any more
    actions/      what can happen next, each by its name
    histories.py  random histories from a seed, replayed, made short
    rules.py      every rule of the protocol, and how to switch it off

`python -m tests.unit.simulation --histories 100000 --seed 7` looks for a broken promise, `--rules` prints for each rule the
shortest history that shows it missing.
"""
