"""The static catalogue: matrix, locks and reports in, pages and `index.json` out.

Read `write.py` first (which pages there are), then `catalogue.py` (what they show) and `index.py` (the same for
programs). `pick.py` is the site's picker on the command line.
"""
