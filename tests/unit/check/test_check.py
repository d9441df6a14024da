"""Every rule of `check` is shown failing, on real locks that were broken on purpose."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from torchlocks.check.anywhere import check_files_of
from torchlocks.check.environment import check_environment
from torchlocks.check.lock import check_lock, rule_reasons
from torchlocks.check.model import Expectation, Finding, Report, Subject
from torchlocks.check.report import as_annotations, as_json, as_text, summary
from torchlocks.check.rules import evidence as check_evidence
from torchlocks.check.rules import extended as check_extended
from torchlocks.check.rules import known_pairs as check_known_pairs
from torchlocks.check.rules import recipes as check_recipes
from torchlocks.check.rules.parity import RULES as PARITY_RULES
from torchlocks.check.rules.parity import Pair, side_of
from torchlocks.core.errors import MissingFileError
from torchlocks.lockfile.formats import merge, read_lock
from torchlocks.lockfile.models import Lock, LockedPackage, pip_package
from torchlocks.matrix.cells import Parity

DATA = Path(__file__).parents[2] / "data" / "locks"
FORGE = "https://conda.anaconda.org/conda-forge"

CPU = Expectation(
    env="cpu",
    platform="linux-64",
    accelerator="cpu",
    channels=(FORGE,),
    requested=("python 3.12.*", "pytorch * cpu*", "torchvision", "numpy", "pip"),
    virtual_packages={"__unix": "0", "__linux": "6.0", "__glibc": "2.28", "__archspec": "1 x86_64"},
    content_hash="0988232be9114239ddb7920d7374ba8dc7b4bea224feb4d0c55c7c8f49db7184",
)
MAC = replace(
    CPU,
    platform="osx-arm64",
    virtual_packages={"__unix": "0", "__osx": "13.0", "__archspec": "1 arm64"},
    content_hash="06574e92844d6ac2f2e1ae94da0e93c8ca3ea092e6bfaced429d68c5c57bf21d",
)
GPU = Expectation(
    env="gpu-cu118",
    platform="linux-64",
    accelerator="cuda",
    channels=("conda-forge",),
    requested=("python 3.11.*", "pytorch * cuda118*", "torchvision", "numpy", "pip", "cuda-version 11.8.*"),
    virtual_packages={**CPU.virtual_packages, "__cuda": "11.8"},
    cuda="11.8",
    driver_floor="520.61.05",
    driver_shipped="520.61.05",
    architectures=("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "8.9"),
    ptx="8.9",
    content_hash="579d57c85af97791385e2689560b74278b838c2117090d73907c60d84204edc3",
)


def complete(env: str) -> Lock:
    return merge(read_lock(DATA / env / "conda-lock.yml"), read_lock(DATA / env / "pixi.lock"))


@lru_cache(maxsize=1)
def complete_gpu() -> Lock:
    return complete("gpu-cu118")


def rules_of(report: Report) -> set[str]:
    return {finding.rule for finding in report.findings}


def package(lock: Lock, name: str) -> LockedPackage:
    return next(each for each in lock.packages["linux-64"] if each.name == name)


def with_packages(lock: Lock, change: Callable[[list[LockedPackage]], Any]) -> Lock:
    packages = list(lock.packages["linux-64"])
    change(packages)
    return replace(lock, packages={**lock.packages, "linux-64": tuple(packages)})


def changed(name: str, /, **fields: Any) -> Callable[[Lock], Lock]:
    """A lock in which one package is different."""

    def change(lock: Lock) -> Lock:
        def swap(packages: list[LockedPackage]) -> None:
            at = next(index for index, each in enumerate(packages) if each.name == name)
            packages[at] = replace(packages[at], **fields)

        return with_packages(lock, swap)

    return change


def renamed(name: str, version: str, build: str, **fields: Any) -> Callable[[Lock], Lock]:
    """A lock in which one package is another version or build of it, with a URL to match."""
    url = f"{FORGE}/linux-64/{name}-{version}-{build}.conda"
    return changed(name, version=version, build=build, url=url, **fields)


def added(name: str, version: str = "1.0", build: str = "h0_0", **fields: Any) -> Callable[[Lock], Lock]:
    """A lock with one package more, which a requested package needs."""
    extra = LockedPackage(
        name=name,
        version=version,
        build=build,
        subdir="linux-64",
        url=f"{FORGE}/linux-64/{name}-{version}-{build}.conda",
        sha256="a" * 64,
        md5="a" * 32,
        depends=(),
        constrains=(),
    )

    def change(lock: Lock) -> Lock:
        needing = replace(package(lock, "pip"), depends=(*(package(lock, "pip").depends or ()), name))
        lock = changed("pip", depends=needing.depends)(lock)
        return with_packages(lock, lambda packages: packages.append(replace(extra, **fields)))

    return change


def removed(name: str) -> Callable[[Lock], Lock]:
    return lambda lock: with_packages(
        lock, lambda packages: packages.remove(next(each for each in packages if each.name == name))
    )


def wanting(name: str, spec: str, key: str = "depends") -> Callable[[Lock], Lock]:
    """A lock in which one package needs (or constrains) something more."""

    def change(lock: Lock) -> Lock:
        return changed(name, **{key: (*(getattr(package(lock, name), key) or ()), spec)})(lock)

    return change


def moved(name: str, url: str) -> Callable[[Lock], Lock]:
    """A lock in which one package is fetched from elsewhere; `{file}` is its subdir and name."""

    def change(lock: Lock) -> Lock:
        old = package(lock, name)
        return changed(name, url=url.format(file=f"{old.subdir}/{old.file_name}"))(lock)

    return change


def unneeded(lock: Lock) -> Lock:
    return changed("pip", depends=package(lock, "pip").depends)(added("colorama")(lock))


def twice(lock: Lock) -> Lock:
    return with_packages(lock, lambda packages: packages.append(package(lock, "numpy")))


def test_real_locks_pass() -> None:
    for env, row in (("cpu", CPU), ("cpu", MAC), ("gpu-cu118", GPU)):
        report = check_lock(complete(env), row)
        assert report.findings == ()
        assert report.skipped == ()
        assert report.packages > 60


SECRET = {"url-credentials", "channel-unknown"}
LOCK_BREAKAGES: list[tuple[str, Callable[[Lock], Lock], set[str]]] = [
    ("gpu", changed("numpy", sha256=None), {"sha256-missing"}),
    ("gpu", changed("numpy", md5=None), {"md5-missing"}),
    ("gpu", moved("numpy", "http://conda.anaconda.org/conda-forge/{file}"), {"url-not-https", "channel-unknown"}),
    ("gpu", moved("numpy", "https://me:secret@conda.anaconda.org/conda-forge/{file}"), SECRET),
    ("gpu", moved("numpy", "https://conda.anaconda.org/t/tk-1-2/conda-forge/{file}"), SECRET),
    ("gpu", moved("numpy", "https://conda.anaconda.org/bioconda/{file}"), {"channel-unknown"}),
    ("gpu", changed("numpy", build="py312h0_0"), {"file-name"}),
    ("gpu", changed("numpy", subdir="win-64"), {"subdir"}),
    ("gpu", twice, {"duplicate-package"}),
    ("gpu", lambda lock: replace(lock, pip={"linux-64": (pip_package("requests", "2.0"),)}), {"pip-package"}),
    ("gpu", lambda lock: replace(lock, sources={"linux-64": ("ours (.)",)}), {"source-package"}),
    ("gpu", removed("libblas"), {"dependency-unsatisfied", "unneeded-package"}),
    ("gpu", renamed("libzlib", "1.1.0", "h0_0"), {"dependency-unsatisfied"}),
    ("gpu", wanting("numpy", "no spec at [all"), {"dependency-unsatisfied"}),
    ("gpu", wanting("numpy", "pytorch >=99", "constrains"), {"constraint-violated"}),
    ("gpu", wanting("numpy", "__osx >=11"), {"virtual-package"}),
    ("gpu", wanting("numpy", "__linux >=6.5"), {"virtual-package"}),
    ("gpu", removed("pip"), {"request-unmet", "unneeded-package"}),
    ("gpu", added("colorama"), set()),
    ("gpu", unneeded, {"unneeded-package"}),
    ("cpu", added("nccl"), {"cpu-holds-cuda"}),
    ("cpu", added("somelib", build="cuda126_h0_0"), {"cpu-holds-cuda"}),
    ("cpu", wanting("numpy", "__cuda >=11"), {"cpu-holds-cuda", "virtual-package"}),
    ("cpu", lambda lock: replace(lock, virtual_packages={"linux-64": ("__cuda=11.4",)}), {"cpu-holds-cuda"}),
    ("gpu", renamed("pytorch", "2.4.0", "cpu_generic_py311_h0_0"),
     {"torch-mixed", "torch-variant", "request-unmet", "dependency-unsatisfied", "constraint-violated"}),
    ("gpu", added("pytorch-cpu", "2.4.0"), {"torch-mixed", "constraint-violated"}),
    ("cpu", added("pytorch-gpu", "2.10.0"), {"torch-mixed", "cpu-holds-cuda", "constraint-violated"}),
    ("gpu", added("pytorch-mutex", "1.0", "cpu"), {"torch-mixed"}),
    ("gpu", renamed("torchvision", "0.19.1", "cpu_py311_h0_0", depends=()),
     {"torch-not-cuda", "torch-variant", "unneeded-package"}),
    # By its name for the CPU, by its dependencies for CUDA: conda-forge's torchaudio 2.5.1 is one such.
    ("gpu", renamed("torchvision", "0.19.1", "cpu_py311_h0_0", depends=("cuda-version >=11.8,<12",)),
     {"unneeded-package"}),
    ("gpu", renamed("torchvision", "0.19.1", "cuda121py311hc969a9e_0"), {"torch-variant", "cuda-majors"}),
    ("gpu", added("libcudnn", "9.11.0", "h0_0"), {"gpu-libraries"}),
    ("gpu", lambda lock: added("libcudnn", "9.13.1", "h0_0")(renamed("cuda-version", "12.4", "h0_3")(lock)),
     {"gpu-libraries", "withdrawn", "cuda-version", "cuda-majors", "request-unmet", "dependency-unsatisfied"}),
    ("gpu", renamed("cuda-version", "11.7", "h0_3"), {"cuda-version", "request-unmet"}),
    ("gpu", renamed("cuda-version", "12.4", "h0_3"),
     {"cuda-version", "cuda-majors", "request-unmet", "dependency-unsatisfied"}),
    ("gpu", added("cuda-cudart", "12.4.127"), {"cuda-majors"}),
    ("gpu", added("somelib", build="cuda120_h0_0"), {"cuda-majors"}),
    ("gpu", wanting("numpy", "__glibc >=2.34,<3.0.a0"), {"glibc-floor"}),
    ("gpu", wanting("numpy", "__glibc >=2.34", "constrains"), {"glibc-floor"}),
    ("gpu", wanting("numpy", "__cuda >=12"), {"driver-floor"}),
    ("gpu", wanting("numpy", "__cuda_arch >=9.0", "constrains"), {"gpu-architectures"}),
]  # fmt: skip


@pytest.mark.parametrize(("env", "breakage", "caught_by"), LOCK_BREAKAGES)
def test_breakage_of_a_lock(env: str, breakage: Callable[[Lock], Lock], caught_by: set[str]) -> None:
    lock, row = (complete("cpu"), CPU) if env == "cpu" else (complete("gpu-cu118"), GPU)
    assert rules_of(check_lock(breakage(lock), row)) == caught_by


ROW_BREAKAGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"cuda": "11.7"}, {"cuda-version"}),
    ({"cuda": "12.4"}, {"cuda-version"}),
    ({"virtual_packages": {**GPU.virtual_packages, "__glibc": "2.12"}}, {"glibc-floor"}),
    ({"virtual_packages": {**GPU.virtual_packages, "__cuda": "10.2"}}, {"driver-floor"}),
    ({"driver_floor": "450.80.02"}, {"driver-floor"}),
    ({"architectures": ("8.0", "9.9")}, {"gpu-architectures"}),
    ({"architectures": ("8.0", "12.0")}, {"gpu-architectures"}),
    ({"architectures": ()}, {"gpu-architectures"}),
    ({"ptx": "12.0"}, {"gpu-architectures"}),
    ({"channels": ("nvidia",)}, {"channel-unknown"}),
    ({"requested": (*GPU.requested, "pandas")}, {"request-unmet"}),
    ({"requested": (*GPU.requested, "conda-forge::numpy")}, set()),
    ({"requested": (*GPU.requested, "nvidia::numpy")}, {"request-unmet"}),
]


@pytest.mark.parametrize(("fields", "caught_by"), ROW_BREAKAGES)
def test_a_row_that_the_lock_does_not_fit(fields: Mapping[str, Any], caught_by: set[str]) -> None:
    assert rules_of(check_lock(complete("gpu-cu118"), replace(GPU, **fields))) == caught_by


# The folder of an environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(DATA / "cpu", tmp_path / "cpu")
    return tmp_path / "cpu"


ROWS = {"linux-64": CPU, "osx-arm64": MAC}


def edit_yaml(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    change(document)
    path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def entry(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in document["package"] if each["name"] == name)
    return found


def without_mac(document: dict[str, Any]) -> None:
    document["package"] = [each for each in document["package"] if each["platform"] != "osx-arm64"]


def swap_lines(path: Path, first: int, second: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[first], lines[second] = lines[second], lines[first]
    path.write_text("".join(lines), encoding="utf-8")


def test_a_real_folder_passes(folder: Path) -> None:
    report, subjects = check_environment(folder, ROWS)
    assert report.findings == ()
    assert set(subjects) == {"linux-64", "osx-arm64"}
    assert report.locks == 2


FOLDER_BREAKAGES: list[tuple[str, Callable[[Path], Any], set[str]]] = [
    ("sha256 swapped in one format",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: entry(d, "numpy")["hash"].update(sha256="b" * 64)),
     {"formats-differ"}),
    ("md5 swapped in one format",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: entry(d, "numpy")["hash"].update(md5="b" * 32)),
     {"formats-differ"}),
    ("hash swapped in the explicit file",
     lambda f: edit_text(f / "conda-linux-64.lock", "a0", "b1"), {"formats-differ"}),
    ("package missing from pixi.lock",
     lambda f: edit_yaml(f / "pixi.lock", lambda d: d["environments"]["default"]["packages"]["linux-64"].pop()),
     {"formats-differ"}),
    ("hash of the wrong length",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: entry(d, "numpy")["hash"].update(sha256="b" * 63)),
     {"unreadable"}),
    ("truncated file", lambda f: (f / "pixi.lock").write_text("version: 7\nenvironments: {"), {"unreadable"}),
    ("no pixi.lock", lambda f: (f / "pixi.lock").unlink(), {"file-missing"}),
    ("no explicit file", lambda f: (f / "conda-osx-arm64.lock").unlink(), {"file-missing"}),
    ("no conda-lock.yml", lambda f: (f / "conda-lock.yml").unlink(), {"file-missing"}),
    ("lock of a dropped platform",
     lambda f: shutil.copy(f / "conda-linux-64.lock", f / "conda-win-64.lock"), {"file-unknown"}),
    ("what is no signature", lambda f: (f / "pixi.lock.sig").write_text("signed, me"), {"signature-stale"}),
    ("signature of a lock that is gone", lambda f: (f / "old.lock.sig").write_text("signed, me"), {"file-unknown"}),
    ("explicit file of another platform",
     lambda f: edit_text(f / "conda-linux-64.lock", "# platform: linux-64", "# platform: win-64"),
     {"platform-unknown", "formats-differ"}),
    ("platform without packages",
     lambda f: edit_yaml(f / "conda-lock.yml", without_mac),
     {"platform-missing", "formats-differ"}),
    ("other inputs",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: d["metadata"]["content_hash"].update({"linux-64": "0" * 64})),
     {"stale"}),
    ("no content hash",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: d["metadata"]["content_hash"].clear()), {"stale"}),
    ("other channels",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: d["metadata"].update(channels=["bioconda", "conda-forge"])),
     {"channels-differ"}),
    ("solved with __cuda",
     lambda f: edit_text(f / "pixi.lock", "  - __glibc=2.28", "  - __cuda=11.4\n  - __glibc=2.28"),
     {"virtual-packages-differ", "cpu-holds-cuda"}),
    ("packages out of order",
     lambda f: edit_yaml(f / "conda-lock.yml", lambda d: d["package"].insert(0, d["package"].pop(40))), {"unsorted"}),
    ("explicit file out of order",
     lambda f: swap_lines(f / "conda-linux-64.lock", 8, 70), {"link-order"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("breakage", "caught_by"), [pytest.param(change, rules, id=name) for name, change, rules in FOLDER_BREAKAGES]
)
def test_breakage_of_a_folder(folder: Path, breakage: Callable[[Path], Any], caught_by: set[str]) -> None:
    breakage(folder)
    report, _ = check_environment(folder, ROWS)
    assert rules_of(report) == caught_by
    assert all(finding.env == "cpu" and finding.fix for finding in report.findings)


def test_a_platform_that_the_matrix_does_not_name(folder: Path) -> None:
    report, _ = check_environment(folder, {"linux-64": CPU})
    assert rules_of(report) == {"platform-unknown", "file-unknown"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    report, subjects = check_environment(tmp_path / "cpu", ROWS)
    assert rules_of(report) == {"file-missing"}
    assert subjects == {}


def test_a_hash_that_was_not_computed_is_reported_as_unchecked(folder: Path) -> None:
    report, _ = check_environment(folder, {"linux-64": replace(CPU, content_hash=None), "osx-arm64": MAC})
    assert [(skip.rule, skip.platform) for skip in report.skipped] == [("stale", "linux-64")]


# Parity


def subject(env: str, row: Expectation) -> Subject:
    lock = complete(env)
    return Subject(lock=lock, platform="linux-64", packages=lock.packages["linux-64"], row=row)


def pair(
    cpu: Subject | None = None,
    gpu: Subject | None = None,
    variant: tuple[str, ...] = ("lib*blas", "liblapack", "pip"),
) -> Pair:
    declared = Parity(accelerator=("cuda*",), variant=variant)
    return Pair(
        cpu=side_of(cpu or subject("cpu", CPU), declared), gpu=side_of(gpu or subject("gpu-cu118", GPU), declared)
    )


def found_by_parity(pair: Pair) -> set[tuple[str, str | None]]:
    return {(rule.id, problem.package) for rule in PARITY_RULES for problem in rule.look(pair)}


def test_parity_of_real_locks() -> None:
    # The two are of different rows, so the versions of what a row pins differ, and nothing else.
    assert {rule for rule, _ in found_by_parity(pair())} == {"parity-versions"}


def test_parity_finds_what_one_template_asks_for() -> None:
    asking = replace(GPU, requested=(*GPU.requested, "pillow >=9"))
    assert ("parity-requests", "pillow") in found_by_parity(pair(gpu=subject("gpu-cu118", asking)))
    fewer = subject("gpu-cu118", replace(GPU, requested=GPU.requested[:3]))
    assert ("parity-requests", "numpy") in found_by_parity(pair(gpu=fewer))


def test_parity_finds_what_no_declared_package_brings() -> None:
    undeclared = {name for rule, name in found_by_parity(pair(variant=("pip",))) if rule == "parity-packages"}
    assert "libopenblas" in undeclared
    real = subject("gpu-cu118", GPU)
    extra = replace(package(real.lock, "zstd"), name="colorama")
    wants = replace(package(real.lock, "numpy"), depends=("colorama", "python"))
    rest = tuple(each for each in real.packages if each.name != "numpy")
    changed = replace(real, packages=(*rest, wants, extra))
    assert found_by_parity(pair(gpu=changed)) - found_by_parity(pair()) == {("parity-packages", "colorama")}


# Anybody's locks


def test_foreign_locks_are_checked_as_far_as_they_can_be() -> None:
    report = check_files_of([DATA / "foreign" / "conda-lock-render-linux-64.lock"])
    assert rules_of(report) == {"sha256-missing"}
    assert {finding.severity for finding in report.findings} == {"warning"}
    assert not report.failed
    told = {skip.rule: skip.reason for skip in report.skipped}
    assert told["dependency-unsatisfied"] == "explicit files do not list dependencies"
    assert "matrix.yml" in told["request-unmet"]
    assert "virtual packages" in told["driver-floor"]
    assert set(told) | set(report.rules) >= {"torch-variant", "cuda-majors", "unneeded-package"}


def test_a_lock_of_a_local_channel_is_no_error_but_a_committed_one_is() -> None:
    local = moved("numpy", "file:///channel/{file}")(complete("gpu-cu118"))
    local = replace(local, channels=(*local.channels, "file:///channel"))
    findings = check_lock(local).findings
    assert [(finding.rule, finding.severity) for finding in findings] == [("url-not-https", "warning")]
    assert ("url-not-https", "error") in {
        (finding.rule, finding.severity) for finding in check_lock(local, GPU).findings
    }


def test_foreign_files_that_are_no_locks(tmp_path: Path) -> None:
    bad = tmp_path / "environment.yml"
    bad.write_text("dependencies: [python]\n")
    report = check_files_of([bad, DATA / "gpu-cu118" / "pixi.lock"])
    assert [(finding.rule, finding.path) for finding in report.findings] == [("unreadable", str(bad))]
    assert report.failed
    assert report.locks == 2
    with pytest.raises(MissingFileError):
        check_files_of([tmp_path / "none"])


def test_a_foreign_lock_with_two_torches_fails(tmp_path: Path) -> None:
    lock = tmp_path / "mixed.lock"
    text = (DATA / "gpu-cu118" / "conda-linux-64.lock").read_text(encoding="utf-8")
    lock.write_text(text + f"{FORGE}/linux-64/pytorch-cpu-2.4.0-cpu_0.conda#{'a' * 64}\n")
    assert rules_of(check_files_of([lock])) == {"torch-mixed"}


WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["__cuda", "__glibc >=x", "a::b 1", "numpy >=1,<", "[", "cuda-version 11.8|", "-", "*", "t [when=1]"]
    ),
)


VIRTUAL = st.one_of(WORDS, st.sampled_from(["__glibc=", "__cuda=a b", "__cuda=12=é", "__glibc==", "__unix=0=0=0"]))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_lock_makes_a_rule_fail(data: st.DataObject) -> None:
    lock = complete_gpu()
    name = data.draw(st.sampled_from([each.name for each in lock.packages["linux-64"]]))
    fields = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "name": WORDS,
                "version": WORDS,
                "build": WORDS,
                "subdir": WORDS,
                "depends": st.one_of(st.none(), st.lists(WORDS, max_size=3).map(tuple)),
                "constrains": st.lists(WORDS, max_size=3).map(tuple),
                "url": WORDS.map(
                    lambda word: f"https://h/{word.encode().hex()}/linux-64/a-1-{word.encode().hex()}.conda"
                ),
            },
        )
    )
    broken = changed(name, **fields)(lock)
    broken = replace(broken, virtual_packages={"linux-64": tuple(data.draw(st.lists(VIRTUAL, max_size=3)))})
    row = data.draw(st.sampled_from([None, GPU]))
    assert check_lock(broken, row).locks == 1


# What is printed


FINDING = Finding(
    rule="url-credentials",
    severity="error",
    path="locks/a,b:c/conda-lock.yml",
    message="100% wrong",
    env="cpu",
    platform="linux-64",
    package="numpy",
    fix="do\nthis",
)


def test_secrets_are_not_repeated() -> None:
    for url in (
        "https://me:hunter2@conda.anaconda.org/conda-forge/{file}",
        "https://x.org/t/hunter2/conda-forge/{file}",
    ):
        report = check_lock(moved("numpy", url)(complete("gpu-cu118")), GPU)
        assert report.failed
        assert "hunter2" not in as_json(report)


def test_json_holds_everything() -> None:
    document = json.loads(as_json(Report(findings=(FINDING,), locks=1, packages=2, rules=("url-credentials",))))
    assert document["schema"] == 1
    assert document["failed"] is True
    assert document["findings"][0]["rule"] == "url-credentials"
    assert document["findings"][0]["package"] == "numpy"


def test_annotations_are_one_escaped_line_each() -> None:
    assert as_annotations(Report(findings=(FINDING,))) == (
        "::error file=locks/a%2Cb%3Ac/conda-lock.yml,title=url-credentials cpu linux-64::"
        "100%25 wrong%0Afix: do%0Athis\n"
    )


def test_text_has_what_where_and_how_to_fix_it() -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_text(check_files_of([DATA / "foreign" / "conda-lock-render-linux-64.lock"])))
    text = console.export_text()
    assert "sha256-missing" in text
    assert "fix: make the lock again, with the tool that made it." in text
    assert "and 82 more" in text
    assert "not checked: dependency-unsatisfied" in text
    assert "1 lock, 87 packages" in text
    assert summary(Report(locks=2, packages=3, rules=("a",))) == "2 locks, 3 packages, 1 rule: nothing found"


def test_every_rule_has_an_id_a_reason_and_a_breakage_above() -> None:
    shown: set[str] = set().union(
        *(rules for *_, rules in LOCK_BREAKAGES),
        *(rules for _, rules in ROW_BREAKAGES),
        *(rules for *_, rules in FOLDER_BREAKAGES),
        {rule.id for rule in PARITY_RULES},
        {rule.id for rule in check_known_pairs.RULES},  # broken in tests/data/cases
        {check_recipes.RULE},  # broken in test_recipes_generated.py
        set(check_evidence.REASONS),  # broken in test_evidence_rules.py
        set(check_extended.REASONS),  # broken in test_extend.py
    )
    assert set(rule_reasons()) == shown
    assert all(reason.endswith(".") and "\n" not in reason for reason in rule_reasons().values())
