"""Builds a channel in a process of its own, for tests that kill it or run two: CHECKOUT RECIPES CHANNEL."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.local_channel.build import build_local_channel

if __name__ == "__main__":
    checkout, recipes, channel = map(Path, sys.argv[1:])
    built = build_local_channel(Layout(checkout), recipes=recipes, channel=channel, progress=Silent())
    print(json.dumps(built.rebuilt))
