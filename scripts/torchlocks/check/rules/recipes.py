"""The rule on files that are generated from the locks: the environments' recipes, and the variants of all recipes."""

from __future__ import annotations

from torchlocks.check.model import Finding, Report, Skipped
from torchlocks.core.errors import LockfileError, MissingFileError, RecipeError
from torchlocks.core.layout import Layout
from torchlocks.matrix.model import Matrix
from torchlocks.publish.metapackages import UPDATE, generated_files

RULE = "recipes-stale"
REASON = "Packages built from a recipe that the locks have moved away from would pin other versions than the locks."


def check_recipes(layout: Layout, matrix: Matrix) -> Report:
    """Compare `recipes/torch-env/recipe.yaml` and `recipes/conda_build_config.yaml` with the matrix and its locks.

    A checkout without recipes has nothing to check.
    """
    if not (layout.recipes / "torch-env").is_dir():
        return Report()
    try:
        wanted = generated_files(layout, matrix)
    except (LockfileError, MissingFileError) as error:
        return Report(skipped=(Skipped(rule=RULE, path="recipes", reason=f"a lock cannot be read: {error.what}"),))
    except RecipeError as error:
        finding = Finding(rule=RULE, severity="error", path=error.where or "recipes", message=error.what, fix=error.fix)
        return Report(findings=(finding,), rules=(RULE,))
    return Report(
        findings=tuple(
            Finding(
                rule=RULE,
                severity="error",
                path=path.relative_to(layout.root).as_posix(),
                message="it differs from what matrix.yml and the committed locks give",
                fix=f"run `{UPDATE}` and commit what it writes.",
            )
            for path, text in wanted.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text
        ),
        rules=(RULE,),
    )
