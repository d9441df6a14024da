"""Recipes: in which order they are built, when they must be built again, and what is wrong with a bad one."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from torchlocks.core.errors import RecipeError, WheelError
from torchlocks.local_channel.recipe_template import render_recipe
from torchlocks.local_channel.recipes import Plan, read_plan, read_recipe, requirement_specs
from torchlocks.local_channel.wheels import Wheel

ROOT = Path(__file__).resolve().parents[3]
HASH = "a" * 64


def write_recipe(folder: Path, name: str, *, host: str = "[]", distribution: str | None = None) -> Path:
    path = folder / name / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    context = f"context: {{distribution: {distribution}}}\n" if distribution else ""
    path.write_text(
        f"schema_version: 1\n{context}package: {{name: {name}, version: 1.0}}\nrequirements: {{host: {host}}}\n",
        encoding="utf-8",
    )
    return path


def test_recipes_are_built_after_what_they_need(tmp_path: Path) -> None:
    write_recipe(tmp_path, "python")
    write_recipe(tmp_path, "pip", host="[python]")
    write_recipe(tmp_path, "numpy", host='["python 3.11.*", pip]')
    write_recipe(tmp_path, "alone")
    plan = read_plan(tmp_path, "cpu")
    assert [[r.name for r in g] for g in plan.generations] == [["alone", "python"], ["pip"], ["numpy"]]


def test_conditional_requirements_count(tmp_path: Path) -> None:
    write_recipe(tmp_path, "a")
    write_recipe(tmp_path, "b")
    path = write_recipe(tmp_path, "c", host="[{if: linux, then: [a], else: b}]")
    assert read_recipe(path).host == {"a", "b"}


def test_a_change_reaches_what_was_built_with_it_and_nothing_else(tmp_path: Path) -> None:
    for name, host in (("base", "[]"), ("user", "[base]"), ("other", "[]")):
        write_recipe(tmp_path, name, host=host)
    before = read_plan(tmp_path, "cpu").fingerprints
    (tmp_path / "base" / "build.sh").write_text("true\n", encoding="utf-8")
    after = read_plan(tmp_path, "cpu").fingerprints
    assert {name for name in before if before[name] != after[name]} == {"base", "user"}


def test_a_moved_pin_changes_the_package_and_not_its_neighbour(tmp_path: Path) -> None:
    write_recipe(tmp_path, "a", distribution="a")
    write_recipe(tmp_path, "b", distribution="b")
    pins = tmp_path / "wheels.txt"
    pins.write_text(f"a==1 --hash=sha256:{HASH}\nb==1 --hash=sha256:{HASH}\n", encoding="utf-8")
    before = read_plan(tmp_path, "cpu")
    pins.write_text(f"a==1 --hash=sha256:{HASH}\nb==2 --hash=sha256:{HASH}\n", encoding="utf-8")
    after = read_plan(tmp_path, "cpu")
    assert before.fingerprints["a"] == after.fingerprints["a"]
    assert before.fingerprints["b"] != after.fingerprints["b"]
    assert before.fingerprints != after.fingerprints


def test_a_recipe_pinned_for_other_pythons_is_left_out(tmp_path: Path) -> None:
    write_recipe(tmp_path, "tomli", distribution="tomli")
    write_recipe(tmp_path, "base")
    (tmp_path / "wheels.txt").write_text(
        f"tomli==2.5.0 ; python_version < '3' --hash=sha256:{HASH}\n", encoding="utf-8"
    )
    assert set(read_plan(tmp_path, "cpu").fingerprints) == {"base"}


def test_a_recipe_pinned_nowhere_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, "numpy", distribution="nunpy")
    with pytest.raises(RecipeError, match="nunpy is pinned nowhere") as caught:
        read_plan(tmp_path, "cpu")
    assert caught.value.where == str(path)


def test_yaml_errors_name_the_line(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, "broken")
    path.write_text("schema_version: 1\npackage:\n  name: [broken\n  version: 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="not valid YAML") as caught:
        read_plan(tmp_path, "cpu")
    assert re.fullmatch(re.escape(str(path)) + r":\d+", str(caught.value.where))


@pytest.mark.parametrize("text", ["", "3", "[]", "- a\n- b\n", "package: 5\n", "package: {name: other, version: 1}\n"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = write_recipe(tmp_path, "x")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_plan(tmp_path, "cpu")
    assert caught.value.where == str(path)


def test_missing_and_circular_requirements_are_named(tmp_path: Path) -> None:
    write_recipe(tmp_path, "a", host="[cmake]")
    with pytest.raises(RecipeError, match="a needs cmake"):
        read_plan(tmp_path, "cpu")
    write_recipe(tmp_path, "a", host="[b]")
    write_recipe(tmp_path, "b", host="[a]")
    with pytest.raises(RecipeError, match="need each other"):
        read_plan(tmp_path, "cpu")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipes"):
        read_plan(tmp_path / "nowhere", "cpu")


def test_committed_recipes_follow_the_conventions() -> None:
    plan = read_plan(ROOT / "recipes" / "local", "cpu")
    assert {"python", "pip", "pytorch", "numpy", "pytest"} <= set(plan.fingerprints)
    for path in (ROOT / "recipes" / "local").glob("*/recipe.yaml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert recipe["schema_version"] == 1, path
        assert set(recipe["about"]) >= {"homepage", "license", "summary"}, path
        assert recipe["tests"], path
        assert recipe["build"]["number"] == 0, path


def test_the_fingerprints_are_stable_and_need_no_wheel(tmp_path: Path) -> None:
    # A folder of recipes alone: there is no build folder beside it, and so nothing that could be opened.
    recipes = tmp_path / "recipes"
    shutil.copytree(ROOT / "recipes" / "local", recipes)
    assert read_plan(recipes, "cpu").fingerprints == read_plan(recipes, "cpu").fingerprints
    assert list(tmp_path.iterdir()) == [recipes]


CUDA = "99.0"


def write_cuda_row(folder: Path, pins: str = "") -> None:
    """A small row: torch and one library, with the committed templates."""
    write_recipe(folder, "python")
    write_recipe(folder, "pytorch", host="[python]", distribution="torch")
    shutil.copytree(ROOT / "recipes" / "local" / "cuda", folder / "cuda", dirs_exist_ok=True)
    (folder / "torch-cpu.txt").write_text(f"torch==1+cpu --hash=sha256:{HASH}\n", encoding="utf-8")
    (folder / "torch-cu990.txt").write_text(
        pins or f"torch==2 --hash=sha256:{HASH}\nnvidia-thing==3 --hash=sha256:{HASH}\n", encoding="utf-8"
    )


def test_a_cuda_plan_has_its_own_torch_its_libraries_and_their_version(tmp_path: Path) -> None:
    write_cuda_row(tmp_path)
    cpu, gpu = read_plan(tmp_path), read_plan(tmp_path, CUDA)
    assert set(cpu.fingerprints) == {"python", "pytorch"}
    assert set(gpu.fingerprints) == {"python", "pytorch", "nvidia-thing", "cuda-version"}
    assert gpu.libraries == ("nvidia-thing",)
    assert cpu.fingerprints["python"] == gpu.fingerprints["python"], "what is common is built once"
    assert cpu.fingerprints["pytorch"] != gpu.fingerprints["pytorch"]
    assert {str(pin.version) for plan in (cpu, gpu) for pin in plan.pins.values() if pin.name == "torch"} == {
        "1+cpu",
        "2",
    }


def test_a_moved_library_reaches_torch_which_names_its_version(tmp_path: Path) -> None:
    write_cuda_row(tmp_path)
    before = read_plan(tmp_path, CUDA).fingerprints
    pins = tmp_path / "torch-cu990.txt"
    pins.write_text(pins.read_text(encoding="utf-8").replace("thing==3", "thing==4"), encoding="utf-8")
    after = read_plan(tmp_path, CUDA).fingerprints
    assert {name for name in before if before[name] != after[name]} == {"nvidia-thing", "pytorch"}


def test_two_cuda_versions_share_a_library_of_one_wheel(tmp_path: Path) -> None:
    write_cuda_row(tmp_path)
    shutil.copy(tmp_path / "torch-cu990.txt", tmp_path / "torch-cu991.txt")
    one, other = read_plan(tmp_path, "99.0").fingerprints, read_plan(tmp_path, "99.1").fingerprints
    assert {name for name in one if one[name] == other[name]} == {"python", "nvidia-thing"}


def test_a_python_that_has_no_torch_for_the_cuda_version_is_reported(tmp_path: Path) -> None:
    write_cuda_row(tmp_path, f"torch==2 ; python_version < '3' --hash=sha256:{HASH}\n")
    with pytest.raises(WheelError, match="no torch for CUDA 99") as caught:
        read_plan(tmp_path, CUDA)
    assert str(caught.value.where).endswith("torch-cu990.txt")


def test_pins_and_templates_that_are_not_there_are_named(tmp_path: Path) -> None:
    write_cuda_row(tmp_path)
    with pytest.raises(WheelError, match="cannot be read") as unpinned:
        read_plan(tmp_path, "98.0")
    assert str(unpinned.value.where).endswith("torch-cu980.txt")
    (tmp_path / "cuda" / "library.yaml.in").unlink()
    with pytest.raises(RecipeError, match="template cannot be read") as caught:
        read_plan(tmp_path, CUDA)
    assert str(caught.value.where).endswith("library.yaml.in")


def wheel_that_requires(plan: Plan, *requires: str) -> Wheel:
    return Wheel(
        pin=plan.pins["torch"],
        path=Path("torch-2-py3-none-any.whl"),
        sha256=HASH,
        requires_python="*",
        requires=tuple(map(Requirement, requires)),
        license="MIT",
        summary="",
        glibc=None,
        kind="compiled",
        newest=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )


def test_what_a_wheel_requires_is_asked_of_the_channel_by_its_names(tmp_path: Path) -> None:
    write_cuda_row(tmp_path)
    write_recipe(tmp_path, "typing_extensions", distribution="typing-extensions")
    (tmp_path / "wheels.txt").write_text(f"typing-extensions==4 --hash=sha256:{HASH}\n", encoding="utf-8")
    plan = read_plan(tmp_path, CUDA)
    wheel = wheel_that_requires(plan, "Typing.Extensions>=4,!=4.1,<5", "python==3.*", "nvidia-thing[extra]==3")
    # The libraries are left to the recipe, which names every one of them with its version.
    assert requirement_specs(wheel, plan) == ["typing_extensions !=4.1,<5,>=4", "python 3.*"]
    with pytest.raises(RecipeError, match="requires numpy, for which the channel has no recipe"):
        requirement_specs(wheel_that_requires(plan, "numpy"), plan)


@pytest.mark.parametrize("kind", ["pure", "library", "compiled"])
@pytest.mark.parametrize("template", sorted((ROOT / "recipes" / "local" / "cuda").glob("*.in")), ids=lambda p: p.name)
def test_the_committed_templates_make_recipes(template: Path, kind: str) -> None:
    values = {
        "cuda": "13.0",
        "torch": "2.14.1",
        "name": "nvidia-thing",
        "distribution": "nvidia-thing",
        "kind": kind,
        "requires": ["filelock", "sympy >=1.13"],
        "libraries": ["nvidia-other ==1.2"],
        "license": '"LicenseRef-NVIDIA-Proprietary"',
        "summary": '"With: a colon, a # and \\"quotes\\""',
    }
    recipe = yaml.safe_load(render_recipe(template, values))
    assert recipe["schema_version"] == 1
    assert recipe["build"]["number"] == 0
    assert set(recipe["about"]) >= {"license", "summary"}
    if template.name == "library.yaml.in":
        assert recipe["requirements"]["run"][-2:] == ["filelock", "sympy >=1.13"]
        assert recipe["build"].get("noarch") == ("python" if kind == "pure" else None)
        assert recipe["build"]["python"].get("version_independent", False) is (kind == "library")
        assert ("python ${{ python_series }}" in recipe["requirements"]["run"]) is (kind == "compiled")
    elif template.name == "pytorch.yaml.in":
        assert recipe["build"]["string"] == "cuda130_${{ python_tag }}_0"
        assert {"__cuda", "cuda-version 13.0.*", "nvidia-other ==1.2"} <= set(recipe["requirements"]["run"])
    elif template.name == "companion.yaml.in":
        assert recipe["build"]["string"] == "cuda130_${{ python_tag }}_0"
        assert {"pytorch ==2.14.1 cuda*", "cuda-version 13.0.*", "filelock"} <= set(recipe["requirements"]["run"])
    else:
        assert recipe["requirements"]["run_constraints"] == ["__cuda >=13"]


def test_a_template_with_a_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    template = tmp_path / "bad.yaml.in"
    template.write_text("package:\n  name: << name\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        render_recipe(template, {"name": "x"})
    assert caught.value.where == f"{template}:2"
    template.write_text("package: << nmae >>\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="nmae"):
        render_recipe(template, {"name": "x"})
