#!/usr/bin/env python3
# -*- coding: utf-8 -*-
"""Make the tool's own virtual environment from hash-pinned requirements.

    python scripts/bootstrap.py .venv [--dev]

Runs with whatever Python the user has, before anything is installed, so it uses the standard library
only, and syntax that even a Python too old can parse far enough to be told so.
"""

import hashlib
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def fail(what, fix):
    sys.stderr.write("error: %s\n  fix:   %s\n" % (what, fix))
    sys.exit(15)


def check_python():
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        fail(
            "torchlocks needs Python %d.%d to %d.%d, and %s is Python %d.%d."
            % (OLDEST + NEWEST + (sys.executable,) + tuple(sys.version_info[:2])),
            "name another one: make PYTHON=python3.11 …",
        )
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            fail(
                "%s has no %s module, so it cannot make a virtual environment." % (sys.executable, module),
                "install it (Debian and Ubuntu: apt install python3-venv), or name another Python: make PYTHON=… …",
            )


def digest(name):
    """What the environment was made from: the file, and the Python that made it."""
    with open(os.path.join(ROOT, name), "rb") as file:
        return hashlib.sha256(sys.version.encode() + file.read()).hexdigest()


def install_pinned(python, name, title, total):
    run_pip(python, ["install", "--require-hashes", "-r", os.path.join(ROOT, name)], title, total)


def run_pip(python, arguments, title, total):
    """Run pip, telling on one line how far it is; its whole output is shown when it fails."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"] + arguments
    log, seen = [], 0
    terminal = sys.stderr.isatty()
    if not terminal:
        sys.stderr.write("%s …\n" % title)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    for line in process.stdout:
        log.append(line)
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            seen += 1
            if terminal:
                name = line.split("==")[0].split()[-1]
                sys.stderr.write("\r\033[K%s: %d of about %d, %s" % (title, seen, total, name))
                sys.stderr.flush()
        elif line.startswith("Installing collected") and terminal:
            sys.stderr.write("\r\033[K%s: unpacking %d packages …" % (title, seen))
            sys.stderr.flush()
    if terminal:
        sys.stderr.write("\r\033[K")
    if process.wait() != 0:
        sys.stderr.write("".join(log[-30:]))
        fail(
            "pip could not install torchlocks' own packages (its last words are above).",
            "check that a Python package index is reached (pip config, PIP_INDEX_URL, proxies), and run make again.",
        )


def read(path):
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def make_venv(venv_dir):
    sys.stderr.write("Making torchlocks' own tools in %s (once, about a minute) …\n" % os.path.basename(venv_dir))
    # Another Python, other requirements, or a run that was cut off: begin anew.
    shutil.rmtree(venv_dir, ignore_errors=True)
    made = subprocess.Popen([sys.executable, "-m", "venv", venv_dir], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = made.communicate()[0]
    if made.returncode != 0:
        sys.stderr.write(output.decode("utf-8", "replace"))
        fail(
            "%s could not make a virtual environment." % sys.executable,
            "Debian and Ubuntu: apt install python3-venv; or name another Python: make PYTHON=… …",
        )


def main():
    arguments = [a for a in sys.argv[1:] if a != "--dev"]
    if len(arguments) != 1:
        fail("usage: bootstrap.py VENV [--dev]", "run it through make")
    check_python()
    venv_dir = os.path.abspath(arguments[0])
    python = os.path.join(venv_dir, "Scripts" if os.name == "nt" else "bin", "python")
    marker = os.path.join(venv_dir, "torchlocks-made-from")
    wanted = digest("requirements.txt")
    if read(marker).split("\n")[0] != wanted or not os.path.exists(python):
        make_venv(venv_dir)
        install_pinned(python, "requirements.txt", "Installing tools", 70)
    project = digest("pyproject.toml")
    if read(marker) != wanted + "\n" + project:
        editable = ["install", "--no-deps", "--no-build-isolation", "--no-index", "-e", ROOT]
        run_pip(python, editable, "Installing torchlocks", 1)
    write(marker, wanted + "\n" + project)
    if "--dev" in sys.argv:
        wanted_dev = wanted + "\n" + digest("requirements-dev.txt")
        if read(marker + "-dev") != wanted_dev:
            install_pinned(python, "requirements-dev.txt", "Installing test tools", 25)
        write(marker + "-dev", wanted_dev)


if __name__ == "__main__":
    main()
