"""Update the matrix and the locks, and draft the pull request.

In: locks, `matrix.yml` and channel records. Out: a newer matrix, newer locks and Markdown text.

`refresh.py` plans a newer matrix: `spots.py` lists the rows and platforms, `candidates.py` the combinations that may
solve, `search.py` solves them (`run.py` in parallel, `messages.py` on other machines), `policy.py` selects, `pairs.py`
compares CPU and CUDA. `matrix_file.py` and `apply.py` write the plan, `plan_text.py` describes it. `relock.py` solves
all locks again, `pull_request.py` describes the result. Read `policy.py` first.
"""
