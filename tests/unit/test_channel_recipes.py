"""Recipes: in which order they are built, when they must be built again, and what is wrong with a bad one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from torchlocks.errors import RecipeError
from torchlocks.recipes import read_plan, read_recipe

ROOT = Path(__file__).resolve().parents[2]
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
