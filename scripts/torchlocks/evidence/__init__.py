"""Evidence: which lock was proven on which kind of machine; a report in, a small public record out.

In: a verdict of the suite on a committed lock. Out: `evidence/<env>/<lock>-<platform>-<machine>-<client>.json`, and for
each environment and platform what is proven of its lock, for the README, the site, `pick` and `doctor`.
Read `model.py` first (what a record contains), then `record.py` (how a report becomes one).
"""
