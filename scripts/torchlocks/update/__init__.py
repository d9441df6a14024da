"""Newer locks, and a matrix that moves: locks and `matrix.yml` in, better ones and the text of a pull request out.

`refresh.py` plans a better matrix: `spots.py` lists where to look, `candidates.py` what may solve, `search.py` tries it
(`run.py` in parallel, `messages.py` on other machines), `policy.py` decides, `pairs.py` compares CPU and CUDA.
`matrix_file.py` and `apply.py` write the plan, `plan_text.py` describes it. `relock.py` locks everything anew,
`pull_request.py` describes that. Read `policy.py` first.
"""
