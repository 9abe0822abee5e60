"""Benchmarks of the collectives, by the definitions of nccl-tests, for any process-group backend.

`collectives` says what each collective does and what must come out, `data` fills and checks the
buffers, `measure` times calls, `worker` runs a whole benchmark in one rank, `results` holds what
came out; `table`, `plot` and `report` show it.
"""
