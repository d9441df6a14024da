#!/usr/bin/env python3
# -*- coding: utf-8 -*-
"""Make the tool's own virtual environment from hash-pinned requirements.

    python scripts/bootstrap.py .venv [--dev] [--on-path] [--wheels]

--on-path puts its programs on the PATH of the later steps of a GitHub workflow. --wheels downloads the wheels of the
local channel meanwhile, if there are none yet.

Runs with whatever Python the user has, before anything is installed, so it uses the standard library
only, and syntax that older Pythons can parse as well, so that they reach the error message.

pip installs uv, one wheel, and uv installs the rest, several times as fast. Where uv cannot be had or fails, pip
installs everything; TORCHLOCKS_BOOTSTRAP=pip requires that.
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time

OLDEST, NEWEST = (3, 10), (3, 14)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EVERY_S = 15
# pip's messages if it reaches no index at all.
NO_NETWORK = re.compile("NewConnectionError|NameResolutionError|ConnectTimeoutError|Network is unreachable|ProxyError")
# Settings of pip that concern where packages come from, and uv's name for each; uv does not read pip's configuration.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
}


class Failed(Exception):
    """A command failed; the argument is its output."""


def fail(what, fix):
    sys.stderr.write("error: %s\n  fix:   %s\n" % (what, fix))
    sys.exit(15)


def check_python():
    version = tuple(sys.version_info[:2])
    if version < OLDEST:
        fail(
            "torchlocks needs Python %d.%d or newer, and %s is Python %d.%d." % (OLDEST + (sys.executable,) + version),
            "name another one: make PYTHON=python3.11 …",
        )
    if version > NEWEST:
        sys.stderr.write(
            "WARNING: %s is Python %d.%d; torchlocks was tried with %d.%d to %d.%d.\n"
            % ((sys.executable,) + version + OLDEST + NEWEST)
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
    """Return a hash of a requirements file and of the Python that runs this: what the environment is made from."""
    with open(os.path.join(ROOT, name), "rb") as file:
        return hashlib.sha256(sys.version.encode() + file.read()).hexdigest()


class Steps:
    """Progress: one line on a terminal; elsewhere a line at the start and every EVERY_S seconds."""

    def __init__(self, title):
        self.title, self.detail = title, ""
        self.started, self.terminal = time.time(), sys.stderr.isatty()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.report)
        self.thread.daemon = True

    def report(self):
        while not self.done.wait(1 if self.terminal else EVERY_S):
            self.write("%s: %s%d s" % (self.title, self.detail, time.time() - self.started))

    def write(self, text):
        sys.stderr.write("\r\033[K" + text if self.terminal else text + "\n")
        sys.stderr.flush()

    def __enter__(self):
        self.write(self.title + " …")
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        if self.terminal:
            self.write("")


def run(command, title, count=None, environment=None):
    """Run a command and return its output. `count` is the expected number of packages. Raises Failed."""
    log, seen = [], 0
    with Steps(title) as steps:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, env=environment
        )
        try:
            for line in process.stdout:
                log.append(line)
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    seen += 1
                    steps.detail = "%d of about %d packages, " % (seen, count or seen)
        except KeyboardInterrupt:
            process.terminate()
            raise
        finally:
            code = process.wait()
    if code != 0:
        raise Failed("".join(log[-30:]))
    return "".join(log)


def pip(python, arguments, title, count=None):
    command = [python, "-m", "pip"]
    if not has_pip(python):
        # To put a pip into a new environment takes longer than all that it is needed for there.
        command = [sys.executable, "-m", "pip", "--python", python]
    return run(command + ["--disable-pip-version-check", "--no-input"] + arguments, title, count)


def has_pip(python):
    return any(name.startswith("pip") for name in os.listdir(os.path.dirname(python)))


def can_install_elsewhere():
    """Whether the pip of the Python that runs this has `--python`, which came with pip 22.3."""
    try:
        import pip as own

        return tuple(int(part) for part in own.__version__.split(".")[:2]) >= (22, 3)
    except (ImportError, AttributeError, ValueError):
        return False


def install(python, arguments, title, count, environment):
    """Install with uv if there is an `environment` for it, else with pip."""
    if environment is not None:
        uv = os.path.join(os.path.dirname(python), "uv")
        command = [uv, "pip", "install", "--python", python, "--index-strategy", "unsafe-best-match"] + arguments
        try:
            run(command, title, environment=environment)
            return
        except (Failed, OSError) as error:
            sys.stderr.write("note: uv could not install these packages (%s); pip installs them\n" % last(error))
    try:
        if not has_pip(python):
            run([python, "-m", "ensurepip"], "Installing pip")
        pip(python, ["install"] + arguments, title, count)
    except Failed as error:
        pip_failed(error)


def last(error):
    return (str(error).strip().splitlines() or ["no output"])[-1].strip()


def pip_failed(error):
    sys.stderr.write(str(error))
    fail(
        "pip could not install torchlocks' own packages (its last lines are above).",
        "check that a Python package index is reached (pip config, PIP_INDEX_URL, proxies), and run make again.",
    )


def install_uv(python, venv_dir):
    """Install the uv that requirements.txt pins. Returns the environment variables to run it with, None without uv."""
    if os.environ.get("TORCHLOCKS_BOOTSTRAP") == "pip":
        return None
    pin = re.search(r"^uv==(?:.*\\\n)*.*", read(os.path.join(ROOT, "requirements.txt")), re.MULTILINE)
    if pin is None:
        return None
    only = os.path.join(venv_dir, "uv.txt")
    write(only, pin.group(0) + "\n")
    try:
        pip(python, ["install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", only], "Installing uv")
        return uv_environment(pip(python, ["config", "list"], "Reading pip's configuration"))
    except Failed as error:
        if NO_NETWORK.search(str(error)):
            pip_failed(error)
        # There may be no wheel of uv for this platform.
        sys.stderr.write("note: uv cannot be used (%s); pip installs the packages, which takes longer\n" % last(error))
        return None


def uv_environment(listed):
    """Return uv's environment variables from the output of `pip config list`; None for what uv has no setting for."""
    settings = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        try:
            settings.setdefault(name, {})[section] = " ".join(str(ast.literal_eval(value)).split())
        except (SyntaxError, ValueError):
            continue
    if "client-cert" in settings:
        return None
    # pip uses the system's certificates, too, which may include that of a proxy.
    environment = {"UV_SYSTEM_CERTS": "true", **os.environ}
    for name, variable in UV_NAMES.items():
        found = settings.get(name, {})
        # pip's order of precedence: environment, the command's own section, the general section.
        value = next((found[section] for section in (":env:", "install", "global") if found.get(section)), "")
        if value and not os.environ.get(variable):
            environment[variable] = value.replace(" ", ",") if name == "find-links" else value
    return environment


def read(path):
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def make_venv(venv_dir):
    sys.stderr.write("Making torchlocks' own tools in %s (once, less than a minute) …\n" % os.path.basename(venv_dir))
    parent = os.path.dirname(os.path.abspath(venv_dir))
    if not os.access(parent, os.W_OK):
        fail("%s cannot be written to." % parent, "make it writable to you, or use a clone of your own.")
    # It was made by another Python, from other requirements, or not completely.
    shutil.rmtree(venv_dir, ignore_errors=True)
    try:
        options = ["--without-pip"] if can_install_elsewhere() else []
        run([sys.executable, "-m", "venv"] + options + [venv_dir], "Making a virtual environment")
    except Failed as error:
        sys.stderr.write(str(error))
        fail(
            "%s could not make a virtual environment." % sys.executable,
            "Debian and Ubuntu: apt install python3-venv; or name another Python: make PYTHON=… …",
        )


class Wheels:
    """Downloads of the local channel's wheels that run beside the installation of the tools.

    Whether they work is not reported: the tool looks at what is in the folder, and downloads what is missing, such as a
    torch that is on another index than pip's.
    """

    PINS = ("torch-cpu.txt", "wheels.txt")

    def __init__(self):
        self.folder = os.path.join(ROOT, "build", "wheels")
        self.running = {}

    def start(self):
        if os.path.isdir(self.folder):
            return
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes"]
        for name in self.PINS:
            target = os.path.join(self.folder, ".fetch-" + name)
            os.makedirs(target)
            pins = ["--dest", target, "-r", os.path.join(ROOT, "recipes", "local", name)]
            self.running[target] = subprocess.Popen(
                command + pins, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def finish(self):
        """Wait for the downloads, and move their wheels to where the tool looks for them."""
        if any(process.poll() is None for process in self.running.values()):
            with Steps("Fetching wheels"):
                for process in self.running.values():
                    process.wait()
        for target, process in self.running.items():
            if process.returncode == 0:
                for name in os.listdir(target):
                    os.rename(os.path.join(target, name), os.path.join(self.folder, name))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for target, process in self.running.items():
            if process.poll() is None:
                process.kill()
                process.wait()
            shutil.rmtree(target, ignore_errors=True)
        if self.running and not os.listdir(self.folder):
            os.rmdir(self.folder)


def main():
    arguments = [a for a in sys.argv[1:] if a not in ("--dev", "--on-path", "--wheels")]
    if len(arguments) != 1:
        fail("usage: bootstrap.py VENV [--dev] [--on-path] [--wheels]", "run it through make")
    if "--on-path" in sys.argv and not os.environ.get("GITHUB_PATH"):
        fail("--on-path is for steps of a GitHub workflow, and GITHUB_PATH is not set.", "leave it out")
    check_python()
    with Wheels() as wheels:
        if "--wheels" in sys.argv:
            wheels.start()
        install_tools(os.path.abspath(arguments[0]))
        wheels.finish()


def install_tools(venv_dir):
    python = os.path.join(venv_dir, "Scripts" if os.name == "nt" else "bin", "python")
    marker = os.path.join(venv_dir, "torchlocks-made-from")
    wanted, project = digest("requirements.txt"), digest("pyproject.toml")
    wanted_dev = wanted + "\n" + digest("requirements-dev.txt")
    fresh = read(marker).split("\n")[0] == wanted and os.path.exists(python)
    current = fresh and read(marker) == wanted + "\n" + project
    current_dev = "--dev" not in sys.argv or (current and read(marker + "-dev") == wanted_dev)
    if not fresh:
        make_venv(venv_dir)
    uv = None if current and current_dev else install_uv(python, venv_dir)
    if not fresh:
        pinned = ["--require-hashes", "-r", os.path.join(ROOT, "requirements.txt")]
        install(python, pinned, "Installing tools", 70, uv)
    if not current:
        editable = ["--no-deps", "--no-build-isolation", "--no-index", "-e", ROOT]
        install(python, editable, "Installing torchlocks", 1, uv)
    write(marker, wanted + "\n" + project)
    if "--dev" in sys.argv:
        if not current_dev:
            pinned = ["--require-hashes", "-r", os.path.join(ROOT, "requirements-dev.txt")]
            install(python, pinned, "Installing test tools", 25, uv)
        write(marker + "-dev", wanted_dev)
    if "--on-path" in sys.argv:
        with open(os.environ["GITHUB_PATH"], "a") as file:
            file.write(os.path.dirname(python) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run make again\n")
        sys.exit(130)
