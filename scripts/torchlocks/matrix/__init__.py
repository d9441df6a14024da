"""The matrix: `matrix.yml` in, rows and rendered environment files out.

`model.py` validates the file and lists its targets (one for each environment and platform); `render.py` fills the
templates `environment-*.yml` for a target; `table.py` prints the rows. Read `model.py` first.
"""
