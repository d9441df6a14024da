"""What another repository asks for: read with its lines, or refused at one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchlocks.core.errors import BaseLockError, EnvironmentFileError
from torchlocks.extend.base_name import BaseName, name_base
from torchlocks.extend.built import Built, read_built
from torchlocks.extend.environment_file import read_environment_file


def write(folder: Path, text: str) -> Path:
    path = folder / "environment.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_requirement_has_its_line_and_counts_by_its_selector(tmp_path: Path) -> None:
    text = """\
        # comments count as lines
        name: mine
        channels: [conda-forge, nodefaults]
        dependencies:
          - numpy >=2

          - conda-forge::tqdm
          - pywin32  # [win]
          - jemalloc=5  # [linux64]
        """
    requirements = read_environment_file(write(tmp_path, "\n".join(line[8:] for line in text.splitlines())))
    assert (requirements.name, requirements.channels, requirements.platforms) == ("mine", ("conda-forge",), ())
    linux = [(requirement.spec, requirement.name, requirement.place) for requirement in requirements.on("linux-64")]
    assert linux == [
        ("numpy >=2", "numpy", "environment.yml, line 5"),
        ("conda-forge::tqdm", "tqdm", "environment.yml, line 7"),
        ("jemalloc=5", "jemalloc", "environment.yml, line 9"),
    ]
    assert [requirement.name for requirement in requirements.on("win-64")] == ["numpy", "tqdm", "pywin32"]


def test_a_file_that_asks_for_nothing_is_read(tmp_path: Path) -> None:
    requirements = read_environment_file(write(tmp_path, "dependencies:\n"))
    assert (requirements.name, requirements.on("linux-64")) == (tmp_path.name, ())


def test_keys_of_an_exported_environment_are_noted(tmp_path: Path) -> None:
    text = "name: a\nvariables: {A: b}\ndependencies: [numpy]\nprefix: /opt/conda/envs/a\n"
    requirements = read_environment_file(write(tmp_path, text))
    assert [note.split("`")[1] for note in requirements.notes] == ["prefix", "variables"]
    assert [requirement.name for requirement in requirements.on("linux-64")] == ["numpy"]
    assert read_environment_file(write(tmp_path, "dependencies: [numpy]\n")).notes == ()


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("dependencies:\n  - numpy\n  - pip:\n    - torch\n", "line 3", "pip packages cannot be locked"),
        ("name: a\ncategory: dev\ndependencies: []\n", "line 2", "`category`"),
        ("name: a\ndependencies:\n  - numpy >=\n", "line 3", "is not a match spec"),
        ("dependencies:\n  - 3\n", "line 2", "must be a match spec"),
        ("dependencies:\n  - '*'\n", "line 2", "is not a match spec"),
        ("dependencies: numpy\n", "line 1", "must be a list"),
        ('name: "a\\nversion: 7"\ndependencies: []\n', "line 1", "`name` must be text of one line"),
        ("name: [a]\ndependencies: []\n", "line 1", "`name` must be text of one line"),
        ("dependencies:\n  - numpy\n  - tqdm  # [windows]\n", "line 3", "a selector that is true on no platform"),
        ("dependencies:\n  - tqdm  # [not win]\n", "line 2", "a selector that is true on no platform"),
        ("channels: [[a]]\ndependencies: []\n", "line 1", "must be text"),
        ("dependencies: [numpy\n", "line", "not valid YAML"),
        ("a: 1\na: 2\n", "line 2", "not valid YAML"),
        ("name: a\n", "environment.yml", "no `dependencies`"),
        ("- numpy\n", "environment.yml", "not a conda environment file"),
        ("", "environment.yml", "not a conda environment file"),
    ],
)
def test_what_cannot_be_locked_is_refused_at_its_line(tmp_path: Path, text: str, where: str, said: str) -> None:
    with pytest.raises(EnvironmentFileError, match=said) as caught:
        read_environment_file(write(tmp_path, text))
    assert where in str(caught.value.where)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFileError) as caught:
        read_environment_file(tmp_path / "environment.yml")
    assert "environment.yml" in str(caught.value.where)


@given(text=st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1"))), spec=st.text(max_size=20))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
def test_any_text_is_read_or_refused(tmp_path: Path, text: str, spec: str) -> None:
    listed = yaml.safe_dump({"dependencies": [spec]})
    for each in (text, f"dependencies:\n  - {text}", listed):
        (tmp_path / "environment.yml").write_bytes(each.encode("utf-8", "surrogatepass"))
        try:
            requirements = read_environment_file(tmp_path / "environment.yml")
        except EnvironmentFileError:
            continue
        assert all(requirement.name and "line" in requirement.place for requirement, _ in requirements.by_line)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cpu", "environment"),
        ("gpu-cu118", "environment"),
        ("gpu-cu118@v1.2", "revision"),
        ("cpu@3a499bb", "revision"),
        ("./cpu", "path"),
        ("locks/conda-lock.yml", "path"),
        ("conda-lock.yml", "path"),
        ("https://example.org/a@b/conda-lock.yml", "url"),
    ],
)
def test_the_kind_of_a_base_follows_from_its_name(text: str, kind: str) -> None:
    name = BaseName(text=text)
    told = {
        "environment": name.is_environment,
        "revision": name.is_revision,
        "path": name.is_path,
        "url": name.is_url,
    }
    assert [each for each, is_it in told.items() if is_it] == [kind]


def test_a_path_is_recorded_as_seen_from_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_base("bases/cpu/conda-lock.yml", None, tmp_path / "project" / "locks").text == (
        "../../bases/cpu/conda-lock.yml"
    )


def test_a_repository_without_a_revision_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BaseLockError, match="names no revision"):
        name_base("cpu", "https://example.org/locks.git", tmp_path)


@pytest.mark.parametrize(
    ("text", "repository"),
    [
        ("https://me:secret@example.org/conda-lock.yml", None),
        ("https://secret@example.org/conda-lock.yml", None),
        ("https://example.org/t/secret/conda-lock.yml", None),
        ("cpu@v1", "https://secret@example.org/locks.git"),
        ("cpu@v1", "ssh://git:secret@example.org/locks.git"),
    ],
)
def test_a_secret_is_not_recorded_and_not_repeated(tmp_path: Path, text: str, repository: str | None) -> None:
    with pytest.raises(BaseLockError, match="contains") as caught:
        name_base(text, repository, tmp_path)
    assert "secret" not in str(caught.value).replace("the secret", "")
    assert name_base("cpu@v1", "ssh://git@example.org/locks.git", tmp_path).repository


@pytest.mark.parametrize("channels", [None, ("conda-forge", "file:///extra")])
@pytest.mark.parametrize("base", [BaseName(text="cpu"), BaseName(text="cpu@v1", repository="../r", commit="1" * 40)])
def test_what_a_lock_records_of_its_base_is_read_again(base: BaseName, channels: tuple[str, ...] | None) -> None:
    built = Built(
        base=base, sha256="a" * 64, moves=("numpy", "scipy"), channels=channels, environment="environment.yml"
    )
    assert read_built({**built.metadata(), "torchlocks": "1"}) == built
    assert read_built({"torchlocks": "1"}) is None
