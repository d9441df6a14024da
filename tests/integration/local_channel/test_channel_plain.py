"""Packages made of a wheel without installing it: the same bytes as those that the engine builds with pip."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import LAYOUT, ROOT
from torchlocks.core.progress import Silent
from torchlocks.local_channel.build import LocalChannel
from torchlocks.local_channel.jobs import Builders, job_of
from torchlocks.local_channel.pack import Job
from torchlocks.local_channel.pins import read_pins
from torchlocks.local_channel.recipes import CPU, Plan, Recipe, read_plan, read_recipe
from torchlocks.local_channel.wheels import Wheel, fetch_wheels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tested on Linux")

RECIPES = ROOT / "recipes" / "local"
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
TAGS = {"pure": "py3-none-any", "compiled": f"{PYTHON}-{PYTHON}-manylinux_2_17_{os.uname().machine}"}

NAMED = "      - pip = thing:main\n      - pip3 = thing:main\n"
EXCLUDED = "  files:\n    exclude:\n      - bin/pip3.*\n"

FILES = {
    "thing/__init__.py": "def main(): ...\n",
    "thing/empty.txt": "",
    "thing/run.sh": "#!/bin/sh\n",
    "thing/data/ä, b.txt": "text\n",
    # `thing-data` is before `thing/` where texts are sorted, and not where folders are.
    "thing-data/x.txt": "x\n",
    "thing/_vendor/other-1.dist-info/INSTALLER": "uv\n",
    "thing/_vendor/other-1.dist-info/RECORD": "other.py,sha256=AAAA,4\n../../bin/other,sha256=BBBB,5\n",
    "thing/_vendor/other.py": "o\n",
    "thing-1.0.data/purelib/thing/pure.py": "p = 1\n",
    "thing-1.0.data/data/share/man/man1/thing.1": ".TH thing\n",
    "thing-1.0.dist-info/entry_points.txt": (
        "[console_scripts]\nthing = thing:main\nThing-2=thing.cli:App.run\npip = thing:main\npip3 = thing:main\n"
    ),
    "thing-1.0.dist-info/licenses/LICENSE": "free\n",
}


def make_wheel(folder: Path, kind: str) -> Path:
    """A wheel with everything that is copied, or written, when it is installed."""
    path = folder / f"thing-1.0-{TAGS[kind]}.whl"
    info = "thing-1.0.dist-info"
    files = {
        **FILES,
        f"{info}/METADATA": "Metadata-Version: 2.4\nName: thing\nVersion: 1.0\nRequires-Python: >=3.9\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {kind == 'pure'}\nTag: {TAGS[kind]}\n",
    }
    rows = [f'"{name}",sha256=CCCC,{len(text.encode())}\n' for name, text in files.items()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**files, f"{info}/RECORD": "".join([*rows, f"{info}/RECORD,,\n"])}.items():
            entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100755 if name.endswith(".sh") else 0o100644) << 16
            archive.writestr(entry, text)
    return path


def thing(folder: Path, kind: str) -> tuple[Recipe, Wheel]:
    """A recipe as those that are committed, for a wheel of that kind."""
    folder.mkdir()
    sha256 = hashlib.sha256(make_wheel(folder, kind).read_bytes()).hexdigest()
    (folder / "pins.txt").write_text(f"thing==1.0 --hash=sha256:{sha256}\n", encoding="utf-8")
    name = "sympy" if kind == "pure" else "markupsafe"
    text = (RECIPES / name / "recipe.yaml").read_text(encoding="utf-8")
    text = text.replace("isympy = isympy:main", "thing = thing:main\n      - Thing-2 = thing.cli:App.run")
    # pip names programs of its own after the Python that it is installed for.
    text = text.replace("  python:\n    entry_points:\n", f"{EXCLUDED}  python:\n    entry_points:\n{NAMED}")
    recipe = folder / "thing" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(re.sub(rf"\b{name}\b", "thing", text), encoding="utf-8")
    wheels = fetch_wheels(read_pins(folder / "pins.txt"), folder, Silent(), offline=True)
    return read_recipe(recipe), wheels["thing"]


def job_for(recipe: Recipe, wheel: Wheel, plan: Plan, folder: Path) -> Job:
    return job_of(recipe, plan, {wheel.pin.name: wheel}, folder / "plain", folder / "work", folder)


def built_twice(jobs: list[Job], channel: str, folder: Path) -> list[tuple[Path, Path]]:
    """Make each package of its wheel, and by the engine, which installs the wheel with pip."""
    (folder / "work").mkdir()
    made = {True: folder / "plain", False: folder / "engine"}
    logs = {}
    for number, job in enumerate(jobs):
        for plain, target in made.items():
            change = {"wheel": job.wheel if plain else None, "channel": channel, "target": target}
            work = folder / "work" / f"{number}-{plain}"
            logs[folder / f"{number}-{plain}.log"] = job.model_copy(update={**change, "work": work})
    with Builders(folder / "work") as builders:
        builders.submit(logs)
        assert len(list(builders.results())) == 2 * len(jobs)
    found = sorted(path.relative_to(made[True]) for path in made[True].glob("*/*.conda"))
    assert len(found) == len(jobs)
    return [(made[True] / path, made[False] / path) for path in found]


def test_a_wheel_is_packaged_as_the_engine_and_pip_do_it(local_channel: LocalChannel, tmp_path: Path) -> None:
    plan = read_plan(RECIPES, CPU)
    jobs = [job_for(*thing(tmp_path / kind, kind), plan, tmp_path) for kind in TAGS]
    assert all(job.wheel for job in jobs), "the recipes do no more than install their wheels"
    for plain, engine in built_twice(jobs, local_channel.url, tmp_path):
        assert plain.read_bytes() == engine.read_bytes(), plain.name


@pytest.mark.skipif(not os.environ.get("TORCHLOCKS_SLOW"), reason="only with TORCHLOCKS_SLOW=1")
def test_all_wheels_are_packaged_as_the_engine_and_pip_do_it(local_channel: LocalChannel, tmp_path: Path) -> None:
    plan = read_plan(RECIPES, CPU)
    recipes = [recipe for recipe in plan.recipes if recipe.distribution]
    pins = [plan.pins[recipe.distribution] for recipe in recipes if recipe.distribution]
    wheels = fetch_wheels(pins, LAYOUT.build / "wheels", Silent())
    jobs = [job_for(recipe, wheels[recipe.distribution or ""], plan, tmp_path) for recipe in recipes]
    assert all(job.wheel for job in jobs)
    for plain, engine in built_twice(jobs, local_channel.url, tmp_path):
        assert plain.read_bytes() == engine.read_bytes(), plain.name
