"""The matrix: `matrix.yml` in, rows and rendered environment files out.

`cells.py` has the contents of the file; `load.py` reads it; `model.py` lists its targets, one (`target.py`) for each
environment and platform; `render.py` fills the templates `environment-*.yml` for a target; `table.py` prints the rows.
Read `cells.py` first, then `model.py`.
"""
