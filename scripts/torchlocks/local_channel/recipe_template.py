"""Render recipes from templates (`recipe.yaml.in`) with the delimiters << … >> and <% … %>.

Jinja's own delimiters, `${{ … }}`, belong to the rendered recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torchlocks.core.errors import RecipeError


def render_recipe(template: Path, values: Mapping[str, object]) -> str:
    """Return the text of the recipe. Raises RecipeError, with the line, if `template` cannot be read or rendered."""
    import jinja2

    environment = jinja2.Environment(
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render(values)
    except OSError as error:
        raise RecipeError(f"The template cannot be read: {error.strerror}.", where=str(template)) from error
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        raise RecipeError(
            f"The template cannot be rendered: {error}.", where=f"{template}:{line}" if line else str(template)
        ) from error
