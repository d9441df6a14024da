"""Locks on the committed bases, solved from real channel records."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import LAYOUT
from support import SNAPSHOT, needs_snapshot, torchlocks
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name, read_lock

EXAMPLE = LAYOUT.root / "examples" / "downstream"


def requirement(folder: Path, *specs: str) -> Path:
    folder.mkdir(exist_ok=True)
    listed = "".join(f"  - {json.dumps(spec)}\n" for spec in specs)
    (folder / "environment.yml").write_text(f"name: finetune\nchannels: [conda-forge]\ndependencies:\n{listed}")
    return folder


def extend(folder: Path, base: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ("extend", "--base", base, "--snapshot", str(SNAPSHOT), *arguments)
    return torchlocks(folder, *command, TORCHLOCKS_ROOT=str(LAYOUT.root), COLUMNS="200")


def entries(lock: Path) -> dict[tuple[str, str], str]:
    """The text of each package's entry, by platform and name."""
    found = {}
    for block in lock.read_text().split("\npackage:\n", 1)[1].split("- name: ")[1:]:
        name, _, rest = block.partition("\n")
        platform = rest.split("  platform: ", 1)[1].partition("\n")[0]
        found[platform, name] = rest.rstrip("\n")
    return found


def holds_base(lock: Path, base: Path) -> None:
    """Every package of the base is in the lock to the byte, in every format and on every platform."""
    of_base, held = entries(base), entries(lock)
    assert {key: held.get(key) for key in of_base} == of_base
    for platform in read_lock(base).platforms:
        lines = set(base.with_name(explicit_name(platform)).read_text().splitlines())
        packages = {line for line in lines if line.startswith("https:")}
        assert packages < set(lock.with_name(explicit_name(platform)).read_text().splitlines())
        complete = set(read_lock(base.with_name(PIXI)).packages[platform])
        assert complete < set(read_lock(lock.with_name(PIXI)).packages[platform]), "with sizes and constraints"


@needs_snapshot
def test_every_package_of_the_base_is_in_the_lock_byte_for_byte(tmp_path: Path) -> None:
    folder = requirement(tmp_path / "a project", "pytorch-lightning", "transformers", "scikit-learn")
    run = extend(folder, "gpu-cu118")
    assert run.returncode == 0, run.stderr
    holds_base(folder / CONDA_LOCK, LAYOUT.locks / "gpu-cu118" / CONDA_LOCK)
    names = {package.name for package in read_lock(folder / CONDA_LOCK).packages["linux-64"]}
    assert {"pytorch-lightning", "transformers", "scikit-learn"} <= names
    check = torchlocks(folder, "check", TORCHLOCKS_ROOT=str(LAYOUT.root), COLUMNS="200")
    assert check.returncode == 0, check.stdout
    assert "nothing found" in check.stdout


def test_the_examples_lock_holds_the_base_of_this_checkout_on_all_of_its_platforms() -> None:
    holds_base(EXAMPLE / CONDA_LOCK, LAYOUT.locks / "cpu" / CONDA_LOCK)
    run = torchlocks(EXAMPLE, "check", COLUMNS="200")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nothing found" in run.stdout


@needs_snapshot
def test_a_numpy_that_torch_cannot_take_is_explained_in_one_paragraph(tmp_path: Path) -> None:
    folder = requirement(tmp_path / "project", "transformers", "numpy <1.19")
    run = extend(folder, "gpu-cu118")
    assert run.returncode == 21
    what = run.stderr.split("error: ", 1)[1].split("\n", 1)[0]
    assert "`numpy <1.19` (environment.yml, line 5) cannot go with the base gpu-cu118 on linux-64" in what
    torch = next(p for p in read_lock(LAYOUT.locks / "gpu-cu118" / CONDA_LOCK).packages["linux-64"]
                 if p.name == "pytorch")  # fmt: skip
    needs = next(spec for spec in torch.depends or () if spec.startswith("numpy "))
    assert f"held there by pytorch {torch.version} (needs `{needs}`)" in what
    assert sorted(path.name for path in folder.iterdir()) == ["environment.yml"]


@needs_snapshot
@pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="solves many times; TORCHLOCKS_SLOW=1 runs it")
@pytest.mark.parametrize("name", ["fsspec", "jinja2", "numpy"])
def test_the_named_change_is_enough_and_nothing_less_is(tmp_path: Path, name: str) -> None:
    """What the message says to let move does solve it, and each part of it alone does not."""
    packages = read_lock(LAYOUT.locks / "gpu-cu118" / CONDA_LOCK).packages["linux-64"]
    locked = next(package.version for package in packages if package.name == name)
    folder = requirement(tmp_path / "project", f"{name} <{locked}")
    run = extend(folder, "gpu-cu118")
    assert run.returncode == 21
    if "--allow-move" not in run.stderr:
        pytest.skip(f"the snapshot has no {name} before {locked} that goes with the rest")
    advice = run.stderr.split("  fix:   ", 1)[1].split("(", 1)[0].split(": ", 1)[1].split()
    names = advice[1::2]
    assert name in names
    assert advice == [word for moved in names for word in ("--allow-move", moved)]
    for moved in names if len(names) > 1 else ():
        assert extend(folder, "gpu-cu118", "--allow-move", moved).returncode == 21
    done = extend(folder, "gpu-cu118", *advice, "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)["platforms"]["linux-64"]["moved"]) == sorted(names)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@needs_snapshot
def test_a_base_behind_a_url_is_the_same_base(tmp_path: Path) -> None:
    folder = requirement(tmp_path / "project", "tqdm")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(LAYOUT.locks))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/gpu-cu118/{CONDA_LOCK}"
        run = extend(folder, url)
        held = torchlocks(folder, "check", "--fetch-base", COLUMNS="200")
        server.shutdown()
    assert run.returncode == 0, run.stderr
    of_base = entries(LAYOUT.locks / "gpu-cu118" / CONDA_LOCK)
    found = entries(folder / CONDA_LOCK)
    assert {key: found.get(key) for key in of_base} == of_base
    assert (held.returncode, "not checked: base" in held.stdout) == (0, False), held.stdout


@needs_snapshot
def test_the_commands_of_the_documentation_make_the_examples_lock(tmp_path: Path) -> None:
    page = (LAYOUT.root / "docs" / "downstream.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert {command.split()[1] for command in commands} == {"extend", "check", "update"}
    requirements = re.findall(r"```yaml\n# environment.yml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "environment.yml").write_text(requirements[0])
    for command in dict.fromkeys(commands):
        name, *arguments = command.split()
        assert name == "torchlocks"
        more = () if arguments[0] == "check" else ("--snapshot", str(SNAPSHOT))
        run = torchlocks(tmp_path, *arguments, *more, TORCHLOCKS_ROOT=str(LAYOUT.root))
        assert run.returncode == 0, (command, run.stdout, run.stderr)
    # The page's environment.yml is the example's, whose lock is committed: the same bytes again.
    locks = [path.name for path in EXAMPLE.iterdir() if path.name.endswith((".lock", CONDA_LOCK))]
    assert [name for name in locks if (tmp_path / name).read_bytes() != (EXAMPLE / name).read_bytes()] == []
    assert len(locks) == 7


@needs_snapshot
def test_the_recipe_of_another_installation_is_answered_at_once(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "data" / "cases" / "channel-order" / "environment.yml"
    arguments = ("--base", "gpu-cu118", "--snapshot", str(SNAPSHOT), "--output", str(tmp_path / "locks"))
    run = torchlocks(tmp_path, "extend", str(file), *arguments, TORCHLOCKS_ROOT=str(LAYOUT.root), COLUMNS="200")
    assert run.returncode == 21
    assert "drop the line `pytorch::pytorch-cuda=11.8`" in run.stderr
    assert not (tmp_path / "locks").exists()


@needs_snapshot
def test_torchvision_that_no_base_of_this_row_has_is_answered_with_those_that_have_it(tmp_path: Path) -> None:
    requirement(tmp_path, "torchvision")
    run = extend(tmp_path, "gpu-cu130", "--platform", "linux-64")
    assert run.returncode == 21, run.stderr
    assert "environments that have torchvision on linux-64: gpu-cu129" in run.stderr
