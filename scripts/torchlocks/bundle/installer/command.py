"""The command: install a checked bundle into a new prefix."""

from __future__ import annotations

import argparse
import os
import posixpath
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from .extract import extract
from .files import Counted, load_json, read_file, shown, workers
from .link import Linker
from .model import Bundle, BundleError, Package
from .reading import check_files, explicit_text, prove, read_bundle
from .zstd import require_zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from .zstd import Opener


def install(bundle: Bundle, prefix: Path, say: Callable[[str], None]) -> None:
    """Install the checked bundle into `prefix`, which must not exist or be an empty folder.

    Raises BundleError or OSError; then nothing has changed.
    """
    here = host_platform()
    if bundle.platform not in (here, "noarch"):
        raise BundleError(f"The bundle is for {bundle.platform}; this is {here}.", "make a bundle for this platform.")
    prefix = Path(os.path.abspath(str(prefix)))  # noqa: PTH100 - resolve() would follow links
    if os.path.lexists(str(prefix)) and not (prefix.is_dir() and not any(prefix.iterdir())):
        raise BundleError(f"There is something at {prefix}, and it is not overwritten.", "choose another prefix.")
    zstd = require_zstd(bundle)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for left in prefix.parent.glob(f".{prefix.name}.bundle-*"):
        say(f"note: {left} belongs to another run; delete it if that run was killed")
    # The lowest measured ratio: CUDA's libraries are 1.7 times as large as their archives, others over 4 times.
    needed = round(1.7 * sum((bundle.folder / each.file).stat().st_size for each in bundle.packages))
    free = shutil.disk_usage(str(prefix.parent)).free
    if needed > free:
        raise BundleError(
            f"The environment needs about {needed / 1e6:.0f} MB; {free / 1e6:.0f} MB are free.", "make room."
        )
    new = Path(tempfile.mkdtemp(prefix=f".{prefix.name}.bundle-", dir=str(prefix.parent)))
    try:
        new.chmod(0o755)
        _link_all(bundle, new, prefix, zstd, say)
        if prefix.is_dir():
            prefix.rmdir()
        new.rename(prefix)
    except BaseException:
        shutil.rmtree(str(new), ignore_errors=True)
        raise


def _link_all(bundle: Bundle, new: Path, prefix: Path, zstd: Opener | None, say: Callable[[str], None]) -> None:
    linker = Linker(bundle, new, prefix, lambda text: say("note: " + text))
    scratch = new / ".extracted"
    scratch.mkdir()
    say(f"Installing {len(bundle.packages)} packages into {prefix}")
    counted = Counted("Installing packages", len(bundle.packages), say)
    with ThreadPoolExecutor(max_workers=workers()) as pool:
        results = [
            pool.submit(extract, bundle.folder / each.file, scratch / each.record_name, zstd, each.file_sha256)
            for each in bundle.packages
        ]
        try:
            # Python first: packages with modules may come before it in a cycle of dependencies.
            pairs = zip(bundle.packages, results)  # noqa: B905 - Python 3.8 has no `strict`
            for package, result in sorted(pairs, key=lambda pair: pair[0].name != "python"):
                if package.name == "python":
                    linker.find_python(package, result.result())
                try:
                    linker.link(package, result.result(), _correction(bundle, package))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise BundleError(f"{package.file} is not a package that can be linked: {error!r}.") from error
                shutil.rmtree(str(scratch / package.record_name))
                counted.advance()
        finally:
            for result in results:
                result.cancel()
    scratch.rmdir()
    linker.finish()


def _correction(bundle: Bundle, package: Package) -> dict[str, Any]:
    """Return the dependencies in the bundle's channel for the package."""
    index = load_json(read_file(bundle.folder / "channel" / package.subdir / "repodata.json"))
    file = posixpath.basename(package.file)
    record = index["packages.conda"].get(file) or index["packages"].get(file) or {}
    return {key: record[key] for key in ("depends", "constrains") if key in record}


def host_platform() -> str:
    """Return the conda platform of this machine, such as `linux-64`."""
    import platform

    system = {"linux": "linux", "darwin": "osx", "win32": "win"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return f"{system}-64"
    if machine in ("arm64", "aarch64"):
        return f"{system}-aarch64" if system == "linux" else f"{system}-arm64"
    return f"{system}-{machine}"


def main(arguments: list[str] | None = None, folder: Path | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for invalid arguments, 130 if interrupted.

    `folder` is that of the unpacked bundle (default: the one that this package is in).
    """
    parser = argparse.ArgumentParser(description="Install this bundle's environment. Nothing is fetched.")
    parser.add_argument("prefix", nargs="?", type=Path, help="folder to install into")
    parser.add_argument("--check", action="store_true", help="check every file, and install nothing")
    parser.add_argument("--explicit", metavar="FILE", type=Path, help="check, and write an explicit file for conda")
    parser.add_argument("--manifest-sha256", metavar="HEX", help="the SHA-256 sum that bundle.json must have")
    parser.add_argument("--allowed-signers", metavar="FILE", type=Path, help="bundle.json must be signed by one of it")
    parser.add_argument("--signer", metavar="IDENTITY", help="with --allowed-signers: who must have signed")
    parser.add_argument("--unproven", action="store_true", help="take a portable bundle without any proof")
    asked = parser.parse_args(arguments)
    if (asked.prefix is not None) + asked.check + (asked.explicit is not None) != 1:
        parser.print_usage(sys.stderr)
        print("error: name a PREFIX, or --check, or --explicit FILE", file=sys.stderr)
        return 2

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        bundle = read_bundle(folder or Path(os.path.abspath(__file__)).parent.parent)  # noqa: PTH100
        proof = prove(bundle, asked.manifest_sha256, asked.allowed_signers, asked.signer, asked.unproven)
        check_files(bundle, _say)
        if asked.check:
            _say(f"{len(bundle.packages)} packages of {bundle.name} for {bundle.platform}: {proof}")
        elif asked.explicit is not None:
            asked.explicit.write_text(explicit_text(bundle), encoding="utf-8")
            _say(f"{asked.explicit}: conda create --offline -p PREFIX --file {asked.explicit}")
        else:
            install(bundle, asked.prefix, _say)
            _say(f"{asked.prefix}: installed {len(bundle.packages)} packages, {proof}")
    except BundleError as error:
        print(f"error: {shown(str(error))}\n  fix:   {shown(error.fix)}", file=sys.stderr)
        return 1
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"error: {shown(str(error))}\n  fix:   nothing was installed; correct this, and run it again",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Nothing was installed.", file=sys.stderr)
        return 130
    return 0


def _say(text: str) -> None:
    print(shown(text), flush=True)
