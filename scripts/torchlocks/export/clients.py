"""The command of each client that installs a committed lock."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.errors import NoSuchRowError
from torchlocks.lockfile.formats import CONDA_LOCK, PIXI, explicit_name


@dataclass(frozen=True, kw_only=True)
class Client:
    """A program that installs locks.

    `file` is the lockfile that it reads. `line` is the command in a clone of the repository, `remote` the one for a
    file on the web, with the fields `{env}`, `{platform}`, `{path}` (of the file in the clone), `{url}` (of the file)
    and `{folder}` (of the file's folder on the web).
    """

    name: str
    file: str
    line: str
    remote: str

    def command(self, env: str, platform: str, root: Path | None = None) -> str:
        """Return the command for a clone of the repository at `root`, None for the current folder."""
        path = self.path(env, platform)
        return self.line.format(env=env, platform=platform, path=shlex.quote(str(root / path)) if root else path)

    def path(self, env: str, platform: str) -> str:
        """Return the path of the lockfile in the repository."""
        return f"locks/{env}/{self.file.format(platform=platform)}"


_EXPLICIT = explicit_name("{platform}")

# conda reads an explicit file from a URL (conda.gateways.connection.download), and so do mamba and micromamba;
# conda-lock and pixi require files (conda-lock issue 511).
CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            name="micromamba",
            file=_EXPLICIT,
            line="micromamba create -p ./{env} -f {path}",
            remote="micromamba create -p ./{env} -f {url}",
        ),
        Client(
            name="mamba",
            file=_EXPLICIT,
            line="mamba create -p ./{env} --file {path}",
            remote="mamba create -p ./{env} --file {url}",
        ),
        Client(
            name="conda",
            file=_EXPLICIT,
            line="conda create -p ./{env} --file {path}",
            remote="conda create -p ./{env} --file {url}",
        ),
        Client(
            name="conda-lock",
            file=CONDA_LOCK,
            line="conda-lock install -p ./{env} {path}",
            remote="curl -fLO {url} && conda-lock install -p ./{env} conda-lock.yml",
        ),
        Client(
            name="pixi",
            file=PIXI,
            line="torchlocks export {env} --format pixi -o pixi.toml && cp {path} . && pixi install --frozen",
            remote="curl -fLO {folder}/pixi.toml -O {url} && pixi install --frozen",
        ),
        Client(
            name="torchlocks",
            file=CONDA_LOCK,
            line="torchlocks install {path} ./{env}",
            remote="torchlocks install {url} ./{env}",
        ),
    )
}


def find_client(name: str) -> Client:
    """Return the client `name`. Raises NoSuchRowError with the known names."""
    if name not in CLIENTS:
        raise NoSuchRowError(f"No client is called {name!r}.", fix=f"name one of: {', '.join(CLIENTS)}")
    return CLIENTS[name]
