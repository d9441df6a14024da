"""The verbs of the command line, in the order in which `--help` lists them, and the text of `--version`."""

from __future__ import annotations

from torchlocks import __version__

VERBS = {
    "doctor": "doctor",
    "env": "environments",
    "verify": "environments",
    "run": "environments",
    "shell": "environments",
    "rollback": "environments",
    "fsck": "environments",
    "matrix": "locks",
    "render": "locks",
    "lock": "locks",
    "update": "locks",
    "check": "locks",
    "why": "explain",
    "diff": "explain",
    "extend": "extend",
    "install": "installing",
    "bundle": "installing",
    "image": "images",
    "sign": "supply",
    "verify-signature": "supply",
    "attestations": "supply",
    "sbom": "supply",
    "licences": "supply",
    "export": "exports",
    "refresh": "updating",
    "evidence": "evidence",
    "update-all": "updating",
    "pull-request": "updating",
    "action": "action",
    "pick": "site",
    "site": "site",
    "channel": "project",
    "recipes": "project",
    "dist": "project",
    "release": "project",
    "upload": "project",
    "test": "project",
    "bench": "project",
}
"""The module of `torchlocks.cli.commands` with each verb; only the one in use is imported."""

HIDDEN = ("action",)
"""Verbs that `--help` does not list."""

VERSION = f"torchlocks, version {__version__}"
