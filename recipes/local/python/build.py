"""Copy the running CPython into $PREFIX and make it relocatable (see recipe.yaml).

Runs with the interpreter that is to be packaged: `PYTHON -I -B build.py [PATCHELF]`. Proven on Linux, with CPythons
built shared (pyenv) and static (Debian's). The macOS and Windows branches follow the layouts that CPython documents
and have not been run. Ends with an exit status of 1 and one line of text where a layout cannot be packaged.
"""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

SHORT = f"{sys.version_info.major}.{sys.version_info.minor}"
SYSTEM_PREFIXES = ("/usr", "/usr/local")
"""Prefixes that name no particular machine: they may stay inside binaries."""

NOT_PACKAGED_DIRS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "turtledemo"}
NOT_PACKAGED_SUFFIXES = (".pyc", ".pyo", ".a", ".o")
NOT_PACKAGED_FILES = re.compile(
    r"(_test\w*|_ctypes_test|_xxtestfuzz|xxlimited\w*|xxsubtype)\.[\w.-]+|EXTERNALLY-MANAGED"
)
PROGRAMS = re.compile(
    rf"(python|python3|pydoc3|idle3|python3-config|pydoc|idle)$|(python|pydoc|idle){SHORT}(-config)?$"
)

DEBIAN_LAYOUT_TEST = 'sys.base_prefix != sys.prefix or hasattr(sys, "real_prefix")'
"""Debian's site and sysconfig use site-packages only if this is set, and dist-packages elsewhere."""

DEBIAN_SITE = f"""\
# Debian's CPython looks for packages in dist-packages, and its site module is frozen into the program.
# Packages of this environment are in site-packages, as everywhere else.
import os
import site
import sys

site.addsitedir(os.path.join(sys.prefix, "lib", "python{SHORT}", "site-packages"))
"""


class CannotPackageError(Exception):
    """This CPython is laid out in a way that the recipe does not know."""


def ignored(folder: str, names: Iterable[str]) -> set[str]:
    """What shutil.copytree leaves out of `folder`."""
    return {
        name
        for name in names
        if name in NOT_PACKAGED_DIRS or name.endswith(NOT_PACKAGED_SUFFIXES) or NOT_PACKAGED_FILES.fullmatch(name)
    } | {name for name in names if _leaves_the_installation(Path(folder, name))}


def _leaves_the_installation(path: Path) -> bool:
    # Debian's sitecustomize.py is a link to /etc: the machine's own settings are no part of the package.
    return path.is_symlink() and not path.resolve().is_relative_to(Path(sys.base_prefix).resolve())


def copy_posix(source: Path, prefix: Path) -> None:
    """Copy programs, the standard library, headers and libpython from `source` (sys.base_prefix) to `prefix`."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    if stdlib != source / "lib" / f"python{SHORT}":
        raise CannotPackageError(f"the standard library is in {stdlib}, not in {source}/lib/python{SHORT}")
    if sysconfig.get_config_var("PYTHONFRAMEWORK"):
        raise CannotPackageError("this is a macOS framework build")
    shutil.copytree(stdlib, prefix / "lib" / f"python{SHORT}", ignore=ignored, symlinks=False)
    (prefix / "lib" / f"python{SHORT}" / "site-packages").mkdir()
    # A package contains no empty folders.
    (prefix / "lib" / f"python{SHORT}" / "site-packages" / "README.txt").write_text("Third-party packages go here.\n")

    if DEBIAN_LAYOUT_TEST in (stdlib / "site.py").read_text(encoding="utf-8"):
        (prefix / "lib" / f"python{SHORT}" / "sitecustomize.py").write_text(DEBIAN_SITE)

    include = Path(sysconfig.get_path("include"))
    if include.is_dir():
        shutil.copytree(include, prefix / "include" / f"python{SHORT}")

    programs = prefix / "bin"
    programs.mkdir(parents=True)
    for file in sorted((source / "bin").iterdir()):
        if PROGRAMS.match(file.name) and not file.is_symlink():
            shutil.copy2(file, programs / file.name)
    if not (programs / f"python{SHORT}").is_file():
        shutil.copy2(Path(sys.executable).resolve(), programs / f"python{SHORT}")
    for alias, target in (("python", f"python{SHORT}"), ("python3", f"python{SHORT}")):
        (programs / alias).unlink(missing_ok=True)
        (programs / alias).symlink_to(target)
    if (programs / f"python{SHORT}-config").is_file():
        (programs / "python3-config").unlink(missing_ok=True)
        (programs / "python3-config").symlink_to(f"python{SHORT}-config")

    if sysconfig.get_config_var("Py_ENABLE_SHARED") and needs_libpython(programs / f"python{SHORT}"):
        copy_libpython(source, prefix)
    pkgconfig = source / "lib" / "pkgconfig"
    for file in sorted(pkgconfig.glob(f"python-{SHORT}*.pc")):
        (prefix / "lib" / "pkgconfig").mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, prefix / "lib" / "pkgconfig" / file.name)


def needs_libpython(program: Path) -> bool:
    """Whether the program loads libpython (Debian builds the library, but links the program statically)."""
    return str(sysconfig.get_config_var("INSTSONAME")).encode() in program.read_bytes()


def copy_libpython(source: Path, prefix: Path) -> None:
    """Copy libpython and the links to it. Raises CannotPackageError if it is not where the build recorded it."""
    folder = Path(sysconfig.get_config_var("LIBDIR"))
    library = folder / sysconfig.get_config_var("INSTSONAME")
    if not library.is_file():
        raise CannotPackageError(f"{library} is missing")
    target = prefix / "lib" / library.name
    shutil.copy2(library.resolve(), target)
    link = prefix / "lib" / str(sysconfig.get_config_var("LDLIBRARY"))
    if link != target:
        link.symlink_to(target.name)
    if (folder / "libpython3.so").is_file():
        shutil.copy2(folder / "libpython3.so", prefix / "lib" / "libpython3.so")


def copy_windows(source: Path, prefix: Path) -> None:
    """The layout of python.org's installer: programs and DLLs at the top, Lib, DLLs, libs and include below."""
    for pattern in ("python*.exe", "python*.dll", "vcruntime*.dll", "LICENSE.txt"):
        for file in source.glob(pattern):
            shutil.copy2(file, prefix / file.name)
    for name in ("DLLs", "Lib", "libs", "include"):
        if not (source / name).is_dir():
            raise CannotPackageError(f"{source / name} is missing")
        shutil.copytree(source / name, prefix / name, ignore=ignored)


def files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def is_binary(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"\0" in stream.read(4096)


def is_elf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def set_rpaths(prefix: Path, source: Path, patchelf: str) -> None:
    """Let programs and extension modules find libpython by a path relative to themselves."""
    for path in files_below(prefix):
        if is_elf(path) and str(source).encode() in path.read_bytes():
            found = subprocess.run([patchelf, "--print-rpath", path], check=True, capture_output=True, text=True)
            if found.stdout.strip():
                relative = os.path.relpath(prefix / "lib", path.parent)
                subprocess.run([patchelf, "--set-rpath", f"$ORIGIN/{relative}", path], check=True)


def machine_paths(source: Path) -> list[str]:
    """The folders of this machine that a build of CPython records: where it is, and where it was compiled."""
    values = [str(source), *(str(sysconfig.get_config_var(name) or "") for name in ("abs_srcdir", "abs_builddir"))]
    return sorted({v for v in values if Path(v).is_absolute() and v not in SYSTEM_PREFIXES}, key=len, reverse=True)


def blank_binaries(prefix: Path, paths: list[str]) -> None:
    """Overwrite this machine's folders inside binaries with a text of the same length that names no folder of it.

    CPython uses the compiled-in prefix only where it cannot find its library from its own location. The last part
    stays: linkers keep one text where another ends with it, and in `…/versions/3.11.7` that other is CPython's version.
    """
    for path in files_below(prefix):
        if not is_binary(path):
            continue
        data = path.read_bytes()
        clean = data
        for folder in paths:
            name = folder[folder.rindex("/") :] if folder.count("/") > 1 else ""
            neutral = ("/relocated" + "_" * len(folder))[: len(folder) - len(name)] + name
            clean = clean.replace(folder.encode(), neutral.encode())
        if clean != data:
            path.write_bytes(clean)


def rewrite_texts(prefix: Path, source: Path, paths: list[str]) -> None:
    """Name $PREFIX instead of this machine's folders in Makefile, _sysconfigdata, shebangs and the like."""
    # The prefix itself, and not a longer name that begins like it: `/usr`, but not `/usrx` or `x/usr`. Tools that
    # were used to build CPython (`/usr/bin/install`) are no part of it.
    whole = re.compile(rf"(?<![\w./-]){re.escape(str(source))}(?=[/\s'\":;]|$)(?!/bin/(?!python))", re.MULTILINE)
    built = [folder for folder in paths if folder != str(source)]
    for path in files_below(prefix):
        if is_binary(path):
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        clean = text
        if str(source) not in SYSTEM_PREFIXES:
            clean = clean.replace(str(source), str(prefix))
        elif is_build_record(path):
            clean = whole.sub(lambda _: str(prefix), clean)
        for folder in built:
            clean = clean.replace(folder, "/relocated")
        clean = re.sub(r"\A#! ?/\S*/python[\d.]*", f"#!{prefix}/bin/python{SHORT}", clean)
        if path.name in ("sysconfig.py", "_distutils_system_mod.py", "__init__.py"):
            clean = clean.replace(DEBIAN_LAYOUT_TEST, "True")
        if clean != text:
            path.write_text(clean, encoding="utf-8", errors="surrogateescape")


def compile_stdlib(prefix: Path) -> None:
    """Bytecode for the standard library, as an environment may be read-only.

    Valid by the packager's word (PEP 552, unchecked), since an installer need not keep file times; one file after the
    other, so that the bytes are the same each time. Files that name the prefix are left to the one who uses them.
    """
    for path in files_below(prefix / "lib" / f"python{SHORT}"):
        if path.suffix == ".py" and str(prefix).encode() not in path.read_bytes():
            py_compile.compile(
                str(path),
                dfile="/" + path.relative_to(prefix).as_posix(),
                doraise=False,
                quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


def is_build_record(path: Path) -> bool:
    """Whether the file records how CPython was built (only there does `/usr` mean the prefix)."""
    return path.name.startswith("_sysconfigdata") or path.suffix == ".pc" or path.parent.name.startswith("config-")


def check(prefix: Path, source: Path) -> None:
    """Run the copy: it must find itself and its site-packages, and import all that the original could import."""
    program = prefix / ("python.exe" if os.name == "nt" else "bin/python")
    probe = (
        "import os, sys, sysconfig\n"
        "print(sys.prefix); print(sysconfig.get_path('stdlib')); print(sysconfig.get_path('purelib'))\n"
        "print(os.pathsep.join(sys.path))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
    result = subprocess.run([program, "-I", "-B", "-c", probe], capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        raise CannotPackageError(f"the copy does not start: {result.stderr.strip()}")
    sys_prefix, stdlib, purelib, path = result.stdout.splitlines()
    packages = prefix / ("Lib/site-packages" if os.name == "nt" else f"lib/python{SHORT}/site-packages")
    if Path(sys_prefix) != prefix or not Path(stdlib).is_relative_to(prefix):
        raise CannotPackageError(f"the copy in {prefix} believes that it is in {sys_prefix}")
    if Path(purelib) != packages or str(packages) not in path.split(os.pathsep):
        raise CannotPackageError(f"the copy installs packages into {purelib} and looks for them in {path}")
    wanted = []
    for module in ("ssl", "ctypes", "sqlite3", "zlib", "lzma", "bz2", "multiprocessing", "_posixsubprocess"):
        try:
            __import__(module)
        except ImportError:
            continue
        wanted.append(module)
    result = subprocess.run(
        [program, "-I", "-B", "-c", f"import {', '.join(wanted)}"], capture_output=True, text=True, env=environment
    )
    if result.returncode != 0:
        raise CannotPackageError(f"the copy cannot import what {source} can: {result.stderr.strip()}")


def main() -> None:
    prefix, source = Path(os.environ["PREFIX"]), Path(sys.base_prefix)
    if sys.implementation.name != "cpython":
        raise CannotPackageError(f"this is {sys.implementation.name}, not CPython")
    if os.name == "nt":
        copy_windows(source, prefix)
    else:
        copy_posix(source, prefix)
        paths = machine_paths(source)
        if sys.platform == "linux":
            set_rpaths(prefix, source, sys.argv[1])
        elif sysconfig.get_config_var("Py_ENABLE_SHARED"):
            raise CannotPackageError("a shared CPython is relocated on Linux only; use one with libpython built in")
        blank_binaries(prefix, paths)
        rewrite_texts(prefix, source, paths)
        compile_stdlib(prefix)
    check(prefix, source)


if __name__ == "__main__":
    try:
        main()
    except CannotPackageError as error:
        sys.exit(f"{sys.executable} cannot be packaged: {error}")
