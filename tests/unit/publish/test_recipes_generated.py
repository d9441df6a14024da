"""What is generated from the locks: pins, variants, and the rule that finds them out of date."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rattler import MatchSpec

from support import few_environments
from torchlocks.check.repository import check_repository
from torchlocks.check.rules.recipes import RULE, check_recipes
from torchlocks.core.errors import RecipeError
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import PIXI, explicit_name, read_lock, to_record
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.model import Matrix
from torchlocks.publish.build import require_current
from torchlocks.publish.metapackages import (
    Metapackage,
    generated_files,
    metapackage,
    read_metapackages,
    recipe_text,
    spec,
    update_generated,
)

LAYOUT = Layout(Path(__file__).parents[3])
MATRIX = load_matrix(LAYOUT.matrix)


@pytest.fixture(scope="module")
def packages() -> tuple[Metapackage, ...]:
    return read_metapackages(LAYOUT, MATRIX)


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    """A checkout of a few environments: the generated files of all are compared with the committed ones below."""
    return few_environments(tmp_path, "cpu", "gpu-cu124")


@pytest.fixture
def matrix(checkout: Layout) -> Matrix:
    return load_matrix(checkout.matrix)


def test_there_is_one_metapackage_a_target(packages: tuple[Metapackage, ...]) -> None:
    assert [(p.env, p.platform) for p in packages] == [(t.env, t.platform) for t in MATRIX.targets()]


def test_every_metapackage_pins_python_torch_and_numpy_as_locked(packages: tuple[Metapackage, ...]) -> None:
    # What explicit files list is another reader's answer.
    for each in packages:
        file = LAYOUT.locks / each.env / explicit_name(each.platform)
        lock = {p.name: p for p in read_lock(file).packages[each.platform]}
        pinned = {pin.split()[0]: pin for pin in each.pins}
        for name in ("python", "pytorch", "numpy"):
            assert pinned[name] == spec(lock[name])
        assert each.version == lock["pytorch"].version
        assert set(each.installs) <= pinned.keys()


def test_a_gpu_metapackage_pins_cuda_and_a_cpu_one_has_none(packages: tuple[Metapackage, ...]) -> None:
    for each in packages:
        cuda = [pin for pin in each.pins if re.match(r"cuda|cudnn|libcu|nccl|pytorch-cuda", pin)]
        assert bool(cuda) == (each.name == "torch-env-gpu"), each


def test_what_users_add_to_is_not_pinned(packages: tuple[Metapackage, ...]) -> None:
    free = {"pip", "pytest", "setuptools", "openssl", "libprotobuf", "libabseil", "libgcc", "libstdcxx", "jinja2"}
    for each in packages:
        assert not free & {pin.split()[0] for pin in each.pins}


def test_builds_name_their_accelerator_and_differ(packages: tuple[Metapackage, ...]) -> None:
    for each in packages:
        flavour = each.env.split("-")[0] if each.name == "torch-env-cpu" else f"cuda{each.env.split('-')[1][2:]}"
        assert re.fullmatch(rf"{flavour}_h[0-9a-f]{{7}}_0", each.build)
    assert len({(p.platform, p.build) for p in packages}) == len(packages)


def test_a_pin_selects_the_locked_build_and_no_other() -> None:
    locked = LockedPackage(
        name="pytorch",
        version="2.5.1",
        build="py3.11_cuda12.4_cudnn9.1.0_0",
        subdir="linux-64",
        url="https://conda.anaconda.org/pytorch/linux-64/pytorch-2.5.1-py3.11_cuda12.4_cudnn9.1.0_0.tar.bz2",
    )
    pin = MatchSpec(spec(locked), strict=True)
    assert pin.matches(to_record(locked))
    assert not pin.matches(to_record(replace(locked, version="2.5.10")))
    assert not pin.matches(to_record(replace(locked, build="py3.11_cpu_0")))


def test_a_moved_pin_gives_another_build() -> None:
    target = MATRIX.target("cpu", "linux-64")
    lock = read_lock(LAYOUT.locks / "cpu" / PIXI)
    locked = lock.packages["linux-64"]
    moved = [replace(p, build="py311hffffffff_1") if p.name == "numpy" else p for p in locked]
    free = [replace(p, build="pyh0000000_9") if p.name == "pip" else p for p in locked]
    build = metapackage(target, locked, lock.path).build
    assert metapackage(target, moved, lock.path).build != build
    assert metapackage(target, free, lock.path).build == build


def test_the_committed_files_are_current() -> None:
    assert check_recipes(LAYOUT, MATRIX).findings == ()
    for path, text in generated_files(LAYOUT, MATRIX).items():
        assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["torch-env/recipe.yaml", "conda_build_config.yaml"])
def test_an_edited_file_is_found_and_fixed(checkout: Layout, matrix: Matrix, name: str) -> None:
    path = checkout.recipes / name
    text = path.read_text()
    edited = re.sub(r"(\d\.\d+)\.\d+\b", r"\1.99", text, count=1)
    assert edited != text
    path.write_text(edited)
    (finding,) = check_recipes(checkout, matrix).findings
    assert (finding.rule, finding.path) == (RULE, f"recipes/{name}")
    with pytest.raises(RecipeError, match="does not agree with the committed locks") as caught:
        require_current(checkout, read_metapackages(checkout, matrix))
    assert caught.value.where == str(path)
    assert update_generated(checkout, matrix) == (path,)
    assert path.read_text() == text
    assert update_generated(checkout, matrix) == ()
    assert check_recipes(checkout, matrix).findings == ()


def test_a_lock_that_moved_on_is_found(checkout: Layout, matrix: Matrix) -> None:
    lock = checkout.locks / "cpu" / PIXI
    text = lock.read_text()
    version = re.search(r"/numpy-(\d+\.\d+\.\d+)-py312\w+_\d", text)
    assert version
    lock.write_text(text.replace(f"numpy-{version[1]}-", "numpy-2.4.99-"))
    report = check_repository(checkout, matrix, content_hash=lambda *_: "")
    assert {f.path for f in report.findings if f.rule == RULE} == {
        "recipes/torch-env/recipe.yaml",
        "recipes/conda_build_config.yaml",
    }


def test_a_lock_that_cannot_be_read_is_no_verdict(checkout: Layout, matrix: Matrix) -> None:
    (checkout.locks / "cpu" / PIXI).write_text("<<<<<<< ours\n")
    report = check_recipes(checkout, matrix)
    assert report.findings == ()
    assert [(skip.rule, "conflicts" in skip.reason) for skip in report.skipped] == [(RULE, True)]


def test_a_broken_template_is_an_error_with_its_line(checkout: Layout, matrix: Matrix) -> None:
    template = checkout.recipes / "torch-env" / "recipe.yaml.in"
    template.write_text("one\n<% for x in %>\n")
    with pytest.raises(RecipeError) as caught:
        recipe_text(template, ())
    assert caught.value.where == f"{template}:2"
    assert [f.rule for f in check_recipes(checkout, matrix).findings] == [RULE]
