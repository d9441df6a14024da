"""What the report of a verification and the catalogue share: templates, styles and drawings.

In: values. Out: HTML with all values escaped (`html.py`, `templates/`), and plots and diagrams as SVG (`draw.py`).
"""
