"""What every other package uses: errors, paths, files, URLs, git, disk space, progress, worker processes.

Nothing here knows what a lock is, and nothing here imports another package of torchlocks.
Read `errors.py` first (all ways to fail, with their exit codes), then `layout.py` (where files are).
"""
