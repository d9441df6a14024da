"""Render a template for a target: the text of a conda environment file."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchlocks.core.errors import TemplateError
from torchlocks.core.reading import read_text, refuse_costly_yaml
from torchlocks.matrix.target import Target

if TYPE_CHECKING:
    from jinja2 import Template

_COMMENT = re.compile(r"^\s*#.*\n", re.MULTILINE)


def render(template: Path, target: Target) -> str:
    """Render `template` for `target` and return the text of a conda environment file.

    Rendering is sandboxed and strict: a template has no access to anything outside, and an undefined variable is an
    error. Comments are dropped, so that a lock does not change with them. Raises TemplateError with the file, the line
    and the variable.
    """
    from jinja2 import TemplateSyntaxError, UndefinedError
    from jinja2.exceptions import SecurityError
    from jinja2.exceptions import TemplateError as JinjaError

    try:
        source = read_text(template)
    except OSError as error:
        raise TemplateError(f"Cannot read the template: {error.strerror}.", where=str(template)) from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"The template is not UTF-8 text (byte {error.start}).", where=str(template)) from None
    variables: dict[str, object] = {
        "env": target.env,
        "platform": target.platform,
        "channels": target.channels,
        "cuda": target.cuda,
        "cuda_version": target.cuda_version,
        "python": target.python,
        "pytorch": target.release or target.pytorch,
        "build": target.build,
        "torchvision": target.torchvision,
        "torchaudio": target.torchaudio,
        "constraints": target.constraints,
    }
    if target.accelerator == "cpu":
        # A CPU template that asks for a CUDA version is a mistake, and strict rendering finds it.
        del variables["cuda"], variables["cuda_version"]
    try:
        # Jinja's own line numbers count what it is given, so comments are dropped from what comes out.
        text = _compiled(source).render(variables)
    except UndefinedError as error:
        raise TemplateError(
            f"The template uses a variable that does not exist: {error.message}.",
            where=f"{template}:{_line_in_template(error)}",
            fix=f"use one of: {', '.join(variables)}",
        ) from error
    except TemplateSyntaxError as error:
        raise TemplateError(
            f"The template is not valid Jinja: {error.message}.",
            where=f"{template}:{error.lineno}",
            fix="correct that line",
        ) from error
    except SecurityError as error:
        raise TemplateError(
            f"The template uses something that it may not use: {error}.", where=f"{template}:{_line_in_template(error)}"
        ) from error
    except (JinjaError, TypeError, ValueError, ArithmeticError) as error:
        raise TemplateError(
            f"The template cannot be rendered: {error}.", where=f"{template}:{_line_in_template(error)}"
        ) from error
    text = _COMMENT.sub("", text)
    _must_be_an_environment(text, template, target)
    return text


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    """Return the compiled template; one text is rendered for many targets."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(source)


def requested(rendered: str) -> tuple[str, ...]:
    """Return the match specs of a rendered environment."""
    return tuple(str(spec) for spec in _load(rendered)["dependencies"])


def _load(text: str) -> Any:
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _line_in_template(error: BaseException) -> int:
    """Return the line of the template at which rendering failed (Jinja adds it to the traceback)."""
    line = 1
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return line


def _must_be_an_environment(text: str, template: Path, target: Target) -> None:
    """Raise TemplateError for a text that is not a conda environment file."""
    import yaml

    where = f"{template}, rendered for {target.env} on {target.platform}"
    try:
        refuse_costly_yaml(text)
        document = _load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        culprit = "".join(text.splitlines()[line - 1 : line]).strip()
        raise TemplateError(
            f"The rendered environment is not valid YAML: {error.problem}.",
            where=f"{where}, line {line}: {culprit!r}",
            fix="correct the template",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A character that YAML does not allow, a number of thousands of digits, a date that is none.
        raise TemplateError(
            f"The rendered environment is not valid YAML: {str(error).splitlines()[0]}.",
            where=where,
            fix="correct the template",
        ) from error
    if not isinstance(document, dict):
        raise TemplateError("The rendered environment is not a mapping of keys to values.", where=where)
    for key in ("name", "channels", "platforms", "dependencies"):
        if not document.get(key):
            raise TemplateError(f"The rendered environment has no `{key}`.", where=where, fix=f"add `{key}:` to it")
    for key in document:
        if key not in ("name", "channels", "platforms", "dependencies"):
            raise TemplateError(
                f"The rendered environment has a key that conda environment files do not have: `{key}`.",
                where=where,
                fix="correct its spelling, or remove it",
            )
    specs = document["dependencies"]
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise TemplateError("`dependencies` must be a list of match specs.", where=where)
