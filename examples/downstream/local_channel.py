"""Builds what this project adds to its base into build/extra, a conda channel, out of PyPI wheels.

    python local_channel.py URL_OF_THE_BASE'S_CHANNEL

For machines that reach PyPI and no conda channel, where the base itself is built from wheels too (`torchlocks env cpu
--channel local`). Run it with the Python that torchlocks is installed for: it needs py-rattler and py-rattler-build.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from rattler.index import index_fs
from rattler_build import Stage0Recipe, ToolConfiguration, VariantConfig

from torchlocks.core.process_exit import exit_process

HERE = Path(__file__).parent.resolve()
WHEELS, CHANNEL = HERE / "build" / "wheels", HERE / "build" / "extra"


def main(base_channel: str) -> None:
    """Fetch the wheels, by hash, and build every recipe."""
    pins = HERE / "recipes" / "wheels.txt"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    subprocess.run([*pip, "-r", str(pins), "-d", str(WHEELS)], check=True)
    for recipe in sorted(HERE.glob("recipes/*/recipe.yaml")):
        for variant in Stage0Recipe.from_file(recipe).render(VariantConfig()):
            variant.run_build(
                # The environment that proves it is this project's own, with its own tests.
                tool_config=ToolConfiguration(test_strategy="skip"),
                output_dir=CHANNEL,
                channels=[base_channel],
                package_format="conda",
            )
    asyncio.run(index_fs(CHANNEL))
    print(CHANNEL.as_uri())


if __name__ == "__main__":
    main(sys.argv[1])
    # py-rattler's threads can crash an interpreter that shuts down under them.
    exit_process(0)
