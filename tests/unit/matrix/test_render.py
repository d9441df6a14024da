"""Templates: every row renders as expected, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from golden import GOLDEN, LAYOUT, golden_file
from torchlocks.core.errors import TemplateError
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.render import render
from torchlocks.matrix.target import Target

TARGETS = load_matrix(LAYOUT.matrix).targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.env}-{target.platform}")
def test_every_row_renders_as_expected(target: Target) -> None:
    assert render(LAYOUT.root / target.template, target) == golden_file(target).read_text(encoding="utf-8"), (
        "if the change is meant, run `make golden` and commit the files"
    )


def test_there_is_no_expected_file_without_a_row() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {golden_file(target).name for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.env}-{target.platform}")
def test_the_build_of_torch_is_pinned(target: Target) -> None:
    document = yaml.safe_load(render(LAYOUT.root / target.template, target))
    (torch,) = [spec for spec in document["dependencies"] if spec.split()[0] == "pytorch"]
    build = torch.split()[2]
    assert ("cuda" in build) == (target.accelerator == "cuda")
    assert build.startswith("cpu") == (target.accelerator == "cpu")


CPU = load_matrix(LAYOUT.matrix).target("cpu", "linux-64")
GOOD = "name: {{ env }}\nchannels: [a]\nplatforms: [linux-64]\ndependencies: [python]\n"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (GOOD + "# a\n# {{ pyhton }}\n", ["'pyhton' is undefined", "t.yml:6", "python"]),
        (GOOD + "{{ cuda }}\n", ["'cuda' is undefined", "t.yml:5"]),
        (GOOD + "{% if python %}\n", ["not valid Jinja", "t.yml"]),
        ("\n\n{{ ''.__class__.__mro__ }}", ["may not use", "t.yml:3"]),
        (GOOD + "{{ 1 / 0 }}\n", ["cannot be rendered", "t.yml:5"]),
        (GOOD.replace("dependencies", "dependancies"), ["no `dependencies`"]),
        (GOOD + "varibles: {}\n", ["`varibles`"]),
        (GOOD.replace("[a]", "[a"), ["not valid YAML"]),
        ("- python\n", ["not a mapping"]),
        (GOOD.replace("[python]", "[{pip: [x]}]"), ["match specs"]),
        (GOOD + "\0", ["not valid YAML"]),
        (GOOD.replace("[python]", "[" + "9" * 6000 + "]"), ["not valid YAML"]),
        # libyaml recurses, and the process would end.
        (GOOD.replace("[python]", "[" * 100_000), ["not valid YAML", "deep"]),
    ],
)
def test_a_mistake_in_a_template_is_named(tmp_path: Path, template: str, said: list[str]) -> None:
    path = tmp_path / "t.yml"
    path.write_text(template, encoding="utf-8")
    with pytest.raises(TemplateError) as caught:
        render(path, CPU)
    for words in said:
        assert words in str(caught.value)


def test_a_template_cannot_read_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    path = tmp_path / "t.yml"
    path.write_text("{% include 'secret' %}", encoding="utf-8")
    with pytest.raises(TemplateError):
        render(path, CPU)


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="No such file"):
        render(tmp_path / "absent.yml", CPU)


def test_comments_do_not_reach_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "t.yml"
    path.write_text("# one {{ env }}\n" + GOOD + "  # two\n", encoding="utf-8")
    assert render(path, CPU) == GOOD.replace("{{ env }}", "cpu")
