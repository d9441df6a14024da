"""The suite under anybody's pytest: `pytest -p torchsuite.standalone --torch-expect cpu CHECKS`.

`torch-verify --where` prints the folder of the checks.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from torchsuite import expect, found
from torchsuite.tier_names import TIERS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torch-verify")
    group.addoption("--torch-expect", choices=("cpu", "gpu"), help="prove this environment to be one for CPU or GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set the suite's expectation before its conftest.py reads it."""
    wanted = early_config.known_args_namespace.torch_expect
    if wanted is None or expect.VARIABLE in os.environ:
        return
    try:
        environment = found.find()
    except (found.NoTorchError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    folder = tempfile.TemporaryDirectory(prefix="torch-verify-", ignore_cleanup_errors=True)
    path = Path(folder.name) / "expect.json"
    fields = {
        **expect.document(environment, "cuda" if wanted == "gpu" else "cpu", None, TIERS),
        "events": os.fspath(path.with_name("events.jsonl")),
    }
    path.write_text(json.dumps(fields), encoding="utf-8")
    os.environ[expect.VARIABLE] = os.fspath(path)

    def forget() -> None:
        os.environ.pop(expect.VARIABLE, None)
        folder.cleanup()

    early_config.add_cleanup(forget)


def pytest_configure(config: pytest.Config) -> None:
    # The suite's own pytest.ini is not read here.
    config.addinivalue_line("markers", "check(reason, accelerator, seconds): a check of the torch suite")
