"""How fast remote-env is, side by side with what people use instead: `scripts/bench`.

One noun a file. `kinds` and `peers` are the ways to run a command, `arena` holds the servers and containers that they need.
Each file of `sections` measures one thing and knows how to show it; `targets` says what is aimed at and whether it is reached;
`report`, `plots` and `machine` make docs/performance.md of the figures.
"""
