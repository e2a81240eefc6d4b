"""The fault matrix: for each way in which things break, commands are run while it is broken, and counted from outside.

    row.py       a row: what is broken, what it may cost, the function that breaks it
    rows/        the rows, by what they hurt
    arena.py     what a row works with: server, sandbox, clients, proxy, count of what ran
    traffic.py   commands whose results are known beforehand, and what became of each call
    subjects.py  who is being tested: remote-env
    peers.py     … and others, in the rows about transport; swerex_worker.py is one's own client in its own process
    proxied.py   rows with a fault proxy between client and server
    checks.py    the promises, checked after each row
    report.py    docs/reliability.md

`scripts/faults` runs it in full, `tests/faults/test_matrix.py` a short version of every row.
"""
