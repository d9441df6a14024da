"""The built metapackages against real channel records: what they exclude, and what they leave open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rattler import BuildString, GenericVirtualPackage, PackageName, RepoDataRecord, Version

from torchlocks.core.errors import SolveError
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import PIXI, read_lock
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.target import Target
from torchlocks.publish.build import BuiltChannel
from torchlocks.publish.metapackages import metapackage, read_metapackages
from torchlocks.solve.repodata import RecordSource
from torchlocks.solve.solver import SolveRequest, solve

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
LAYOUT = Layout(Path(__file__).parents[3])
MATRIX = load_matrix(LAYOUT.matrix)
#: Variants differ from the defaults in versions alone: one of each accelerator, and all in the long form.
SOME = ("cpu-torch2.7-py312", "gpu-cu129-torch2.12-py313")
SOLVED = (
    MATRIX.targets()
    if SLOW
    else (*MATRIX.defaults(), *(target for name in SOME for target in MATRIX.select(name, None)))
)
SNAPSHOT = os.environ.get("TORCHLOCKS_SNAPSHOT")

pytestmark = [
    pytest.mark.snapshot,
    pytest.mark.skipif(not SNAPSHOT, reason="needs real channel records: TORCHLOCKS_SNAPSHOT=DIR"),
]


@pytest.fixture
def built(recipes_channel: BuiltChannel) -> BuiltChannel:
    return recipes_channel


def solved(built: BuiltChannel, target: Target, *specs: str) -> dict[str, RepoDataRecord]:
    virtual = []
    for name, text in target.virtual_packages.items():
        version, _, build = text.partition(" ")
        virtual.append(GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0")))
    request = SolveRequest(
        channels=(built.url, *target.channels), platform=target.platform, specs=specs, virtual_packages=tuple(virtual)
    )
    records = solve(request, RecordSource(snapshot=Path(str(SNAPSHOT))))
    return {record.name.normalized: record for record in records}


def test_cpu_and_gpu_exclude_each_other_and_the_solver_gives_the_reason(built: BuiltChannel) -> None:
    with pytest.raises(SolveError) as caught:
        solved(built, MATRIX.target("gpu-cu118", "linux-64"), "torch-env-cpu", "torch-env-gpu")
    assert "torch-env-cpu and torch-env-gpu cannot be installed together" in caught.value.what
    assert caught.value.details
    assert "torch-env-constraints" in caught.value.details


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("torch-env-gpu * cuda118*", "torch-env-constraints * cuda129*"),
        ("torch-env-gpu * cuda129*", "torch-env-constraints * cpu*"),
        ("torch-env-gpu * cuda126*", "torch-env-gpu * cuda129*"),
        ("torch-env-cpu", "pytorch * cuda*"),
        ("torch-env-gpu * cuda129*", "cuda-version 12.6.*"),
    ],
)
def test_what_contradicts_a_lock_is_refused(built: BuiltChannel, one: str, other: str) -> None:
    target = MATRIX.target("gpu-cu129", "linux-64")
    solved(built, target, one)  # each alone is possible
    with pytest.raises(SolveError):
        solved(built, target, one, other)


@pytest.mark.parametrize("target", SOLVED, ids=lambda target: f"{target.env}-{target.platform}")
def test_a_package_can_be_added_and_everything_pinned_stays(built: BuiltChannel, target: Target) -> None:
    lock = read_lock(LAYOUT.locks / target.env / PIXI)
    locked = {package.name: package for package in lock.packages[target.platform]}
    assert "scipy" not in locked
    each = metapackage(target, lock.packages[target.platform], lock.path)
    records = solved(built, target, f"{each.name} {each.version} {each.build}", "scipy")
    assert "scipy" in records
    assert set(each.installs) <= records.keys()
    for name in {pin.split()[0] for pin in each.pins} & records.keys():
        assert (str(records[name].version), str(records[name].build)) == (locked[name].version, locked[name].build)
    assert records["pytorch"].url == locked["pytorch"].url


def test_constraints_alone_hold_torch_and_install_nothing(built: BuiltChannel) -> None:
    target = MATRIX.target("gpu-cu129", "linux-64")
    assert solved(built, target, "torch-env-constraints * cuda129*").keys() == {"torch-env-constraints"}
    lock = read_lock(LAYOUT.locks / target.env / PIXI)
    locked = {package.name: package for package in lock.packages["linux-64"]}
    each = metapackage(target, lock.packages["linux-64"], lock.path)
    records = solved(built, target, f"torch-env-constraints {each.version} {each.build}", "pytorch")
    assert records["pytorch"].url == locked["pytorch"].url
    assert records["python"].url == locked["python"].url
    assert "torch-env-gpu" not in records


def test_every_variant_is_in_the_channel(built: BuiltChannel) -> None:
    held = {(package.name, package.subdir, package.build) for package in built.packages}
    for each in read_metapackages(LAYOUT, MATRIX):
        assert (each.name, each.platform, each.build) in held
        assert ("torch-env-constraints", each.platform, each.build) in held
