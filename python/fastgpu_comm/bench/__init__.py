"""Benchmarks of collectives on any process-group backend, by the definitions of nccl-tests.

Read `calls` first: it prepares the call of each collective and its expected result, with the
values of `data`. `measure` times calls, `job` joins the ranks, and `worker` runs a whole benchmark
in one rank. `results` holds the outcome; `display`, `table`, `plot` and `report` show it.
"""
