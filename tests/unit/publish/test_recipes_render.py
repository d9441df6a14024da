"""Every recipe renders for every platform, with what a published package needs."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.licenses import canonicalize_license_expression
from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig

from torchlocks import __version__
from torchlocks.core.errors import RecipeError
from torchlocks.core.layout import Layout
from torchlocks.matrix.load import load_matrix
from torchlocks.publish.build import conda_build_command, conda_build_version, find_engine, render_recipe
from torchlocks.publish.metapackages import read_metapackages

LAYOUT = Layout(Path(__file__).parents[3])
MATRIX = load_matrix(LAYOUT.matrix)
VARIANTS = LAYOUT.recipes / "conda_build_config.yaml"
PUBLISHED = ("torch-env", "torch-verify")
LOCAL = sorted(path.parent for path in (LAYOUT.recipes / "local").glob("*/recipe.yaml"))

#: What torchlocks.channel gives the recipes of the local channel; the values stand for any others.
LOCAL_VARIABLES = {
    "version": "1.2.3",
    "python": "3.11.*",
    "python_series": "3.11.*",
    "python_tag": "py311",
    "wheel_url": "file:///wheel.whl",
    "wheel_file": "wheel.whl",
    "wheel_sha256": "0" * 64,
    "pip": "pip",
    "requires_python": ">=3.10",
    "glibc": ">=2.28,<3.0.a0",
    "interpreter": "python",
    "patchelf": "patchelf",
}


METAPACKAGES = cache(partial(read_metapackages, LAYOUT, MATRIX))


@cache
def outputs(name: str, platform: str) -> list[dict[str, Any]]:
    """The rendered packages of a published recipe."""
    return [variant.recipe.to_dict() for variant in render_recipe(LAYOUT.recipes / name, VARIANTS, platform)]


@pytest.mark.parametrize("platform", MATRIX.platforms)
def test_every_environment_is_rendered_for_its_platform(platform: str) -> None:
    rendered = {
        (p["package"]["name"], p["package"]["version"], p["build"]["string"]) for p in outputs("torch-env", platform)
    }
    expected = {
        (name, each.version, each.build)
        for each in METAPACKAGES()
        if each.platform == platform
        for name in (each.name, "torch-env-constraints")
    }
    assert rendered == expected


@pytest.mark.parametrize("platform", MATRIX.platforms)
def test_the_pins_of_a_platform_are_its_own(platform: str) -> None:
    packages = {p.build: p for p in METAPACKAGES() if p.platform == platform}
    for output in outputs("torch-env", platform):
        each, requirements = packages[output["build"]["string"]], output["requirements"]
        if output["package"]["name"] == "torch-env-constraints":
            assert not requirements.get("run")
            assert tuple(requirements["run_constraints"]) == each.pins
        else:
            constraints = f"torch-env-constraints =={each.version} {each.build}"
            assert tuple(requirements["run"]) == (constraints, *each.installs)
            assert not requirements.get("run_constraints")


@pytest.mark.parametrize("platform", MATRIX.platforms)
def test_the_suite_is_one_noarch_package_everywhere(platform: str) -> None:
    (output,) = outputs("torch-verify", platform)
    assert output["build"]["noarch"] == "python"
    assert output["package"]["version"] == __version__
    assert f'__version__ = "{__version__}"' in (LAYOUT.suite / "torchsuite" / "__init__.py").read_text()


@pytest.mark.parametrize("platform", MATRIX.platforms)
@pytest.mark.parametrize("folder", LOCAL, ids=lambda folder: folder.name)
def test_local_recipes_render_and_follow_the_conventions(folder: Path, platform: str) -> None:
    config = RenderConfig(platform=PlatformConfig(target_platform=platform))
    variants = VariantConfig({key: [value] for key, value in LOCAL_VARIABLES.items()})
    (rendered,) = Stage0Recipe.from_file(folder / "recipe.yaml").render(variants, config)
    package = rendered.recipe.to_dict()
    assert package["package"]["name"] == folder.name
    follow_conventions(package)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_follow_the_conventions(name: str) -> None:
    for platform in MATRIX.platforms:
        for output in outputs(name, platform):
            follow_conventions(output)
            assert output["about"]["license_file"]
            assert output["source"], "the licence has to come from somewhere"
    assert yaml.safe_load((LAYOUT.recipes / name / "recipe.yaml").read_text())["extra"]["recipe-maintainers"]


def follow_conventions(package: dict[str, Any]) -> None:
    """Those of conda-forge's linter that hold for any recipe."""
    name, about = package["package"]["name"], package["about"]
    assert re.fullmatch(r"[a-z0-9_.-]+", name)
    # LLVM's exception is one that SPDX knows and packaging does too; an unknown licence raises.
    assert canonicalize_license_expression(about["license"]) == about["license"], about["license"]
    assert about["summary"]
    assert not about["summary"].endswith(".")
    assert about["homepage"].startswith("https://")
    if name != "torch-env-constraints":  # there is nothing in it that could be run
        assert package["tests"], f"{name} has no test"
    assert re.fullmatch(r"[A-Za-z0-9_.]+", package["build"]["string"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_recipe_names_a_folder_of_a_machine(name: str) -> None:
    for path in (LAYOUT.recipes / name).iterdir():
        assert not re.search(r"(?<![\w.$}])/(home|root|work|opt|Users|tmp)/", path.read_text()), path


def test_a_broken_recipe_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("package: {name: x}\n")
    with pytest.raises(RecipeError) as caught:
        render_recipe(tmp_path, VARIANTS, "linux-64")
    assert caught.value.where == str(tmp_path / "recipe.yaml")
    assert caught.value.details


# Which engine builds. conda-build cannot be had from PyPI; a program of its name says what version it would be.


def conda(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "conda"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("script", "engine"),
    [
        ("echo conda-build 26.5.0", "conda-build"),
        ("echo conda-build 26.10.1", "conda-build"),
        ("echo conda-build 25.11.2", "py-rattler-build"),
        ("echo no such command: build >&2; exit 2", "py-rattler-build"),
        ("echo nonsense", "py-rattler-build"),
        ("exit 0", "py-rattler-build"),
    ],
)
def test_conda_build_is_used_where_it_is_new_enough(
    script: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda(tmp_path, script, monkeypatch)
    assert find_engine() == engine


def test_without_conda_the_engine_under_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert conda_build_version() is None
    assert find_engine() == "py-rattler-build"


def test_conda_build_is_given_options_that_it_takes_for_these_recipes(tmp_path: Path) -> None:
    command = conda_build_command("conda", LAYOUT.recipes / "torch-env", VARIANTS, tmp_path)
    # Of conda-build's options, those that its `check_arguments_rattler` lets pass.
    taken = {"-e", "--output-folder", "--no-test", "--no-include-recipe", "--package-format"}
    assert {word for word in command if word.startswith("-")} == taken | {"--override-channels", "--channel"}
