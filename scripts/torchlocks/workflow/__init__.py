"""`make env-cpu` and `make env-gpu`: row, lock, prefix and verdict in one command.

In: an environment or CUDA version, and a channel. Out: a verified environment in `envs/`, or an error that names what
is missing. Read `environment.py` first; `choose.py` selects the environment for `CUDA=auto` and `ENV=auto`.
"""
