"""Results as they happen: one JSON object a line, for the runner that watches.

Events, by their `event` field:

- `collecting` {id}: a module is about to be imported (what a crash then is to be blamed on);
- `tiers` {tiers: [{tier, obstacle}]}: what can run here;
- `planned` {checks: [{id, tier, reason}]}: every check, in the order they run;
- `started` {id}; `finished` {id, tier, reason, outcome, why, skip, error, duration_s, values};
- `facts` {facts}: what the environment reports;
- `ended` {}: the suite came to its end.

`outcome` is passed, failed or skipped; `why` is one line; `skip` is the code of a reason of `skips.py`, or null;
`error` is the full text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO


class Stream:
    """The writing end; every event is on disk before the next thing happens."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def emit(self, event: str, **fields: object) -> None:
        self._file.write(json.dumps({"event": event, **fields}, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
