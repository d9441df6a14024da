"""A `conda` whose `build` does what conda-build 26.5 does for version 1 recipes: it calls py-rattler-build.

conda-build cannot be had from PyPI. This takes the options that it takes for such recipes, refuses others as it does,
and calls the engine as it does (its `_rattler_build/compat.py`); what is tested with it is our side of the call.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, ToolConfiguration, VariantConfig


def main() -> None:
    parser = argparse.ArgumentParser(prog="conda", allow_abbrev=False)
    parser.add_argument("build", choices=["build"])
    parser.add_argument("-V", "--version", action="version", version="conda-build 26.5.0")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-e", dest="variants", type=Path, required=True)
    parser.add_argument("--output-folder", type=Path, required=True)
    parser.add_argument("--no-test", action="store_true")
    parser.add_argument("--no-include-recipe", action="store_true")
    parser.add_argument("--package-format", choices=["conda", "tar.bz2"], default="conda")
    parser.add_argument("--override-channels", action="store_true")
    parser.add_argument("-c", "--channel", action="append")
    options = parser.parse_args()
    platform = os.environ["CONDA_SUBDIR"]
    recipe = Stage0Recipe.from_file(options.recipe / "recipe.yaml")
    platforms = PlatformConfig(target_platform=platform, build_platform=platform, host_platform=platform)
    for variant in recipe.render(VariantConfig.from_file(options.variants), RenderConfig(platform=platforms)):
        variant.run_build(
            tool_config=ToolConfiguration(test_strategy="skip", noarch_build_platform=platform),
            output_dir=options.output_folder,
            channels=options.channel,
            no_build_id=False,
            package_format=options.package_format,
            no_include_recipe=options.no_include_recipe,
        )


if __name__ == "__main__":
    main()
