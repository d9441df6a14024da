"""Chains lead from what was asked for to the package, the shortest first, and never in circles."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.core.errors import LockfileError
from torchlocks.lockfile.formats import merge, read_lock
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.solve.why import Why, as_json, as_text, why

DATA = Path(__file__).parents[2] / "data" / "locks" / "gpu-cu118"
REQUESTED = ("python 3.11.*", "pytorch * cuda118*", "torchvision", "numpy", "pip", "cuda-version 11.8.*")


def real() -> Lock:
    return merge(read_lock(DATA / "conda-lock.yml"), read_lock(DATA / "pixi.lock"))


def names(answer: Why) -> list[list[str]]:
    return [[step.name for step in chain.steps] for chain in answer.chains]


def lock_of(graph: dict[str, list[str]]) -> Lock:
    packages = tuple(
        LockedPackage(
            name=name,
            version="1",
            build="0",
            subdir="noarch",
            url=f"https://conda.anaconda.org/conda-forge/noarch/{name}-1-0.conda",
            depends=tuple(f"{other} >=1" for other in needs),
        )
        for name, needs in graph.items()
    )
    return Lock(
        path=Path("a.lock"),
        kind="conda-lock",
        sha256="",
        channels=(),
        packages={"linux-64": packages},
        content_hash={},
        virtual_packages={},
        metadata={},
    )


def test_why_the_cuda_toolkit_is_there() -> None:
    answer = why(real(), "linux-64", "cudatoolkit", REQUESTED)
    shortest = answer.chains[0].steps
    assert [step.name for step in shortest] == ["pytorch", "cudatoolkit"]
    assert shortest[0].spec == "pytorch * cuda118*"
    assert shortest[1].spec.startswith("cudatoolkit ")
    assert shortest[1].version == "11.8.0"
    assert not answer.assumed


def test_a_virtual_package_is_explained() -> None:
    answer = why(real(), "linux-64", "__cuda", REQUESTED)
    assert names(answer)[0][-1] == "__cuda"
    assert {limit.package.split()[0] for limit in answer.limits} >= {"cuda-version"}
    assert any(not limit.needs for limit in answer.limits)


def test_a_request_explains_itself() -> None:
    assert names(why(real(), "linux-64", "numpy", REQUESTED))[0] == ["numpy"]


def test_chains_are_bounded_and_shortest_first() -> None:
    answer = why(real(), "linux-64", "libgcc", REQUESTED, most=25)
    lengths = [len(chain.steps) for chain in answer.chains]
    assert len(lengths) == 25
    assert answer.more
    assert lengths == sorted(lengths)
    assert len({tuple(chain) for chain in names(answer)}) == 25


def test_circles_do_not_trap_it() -> None:
    answer = why(lock_of({"a": ["b"], "b": ["a", "c"], "c": ["b"]}), "linux-64", "c", ["a"])
    assert names(answer) == [["a", "b", "c"]]
    assert not answer.more


def test_without_requests_chains_begin_at_the_top() -> None:
    answer = why(lock_of({"top": ["mid"], "mid": ["low"], "low": []}), "linux-64", "low")
    assert answer.assumed
    assert names(answer) == [["top", "mid", "low"]]


def test_what_nothing_asks_for_has_no_chain() -> None:
    assert why(lock_of({"a": [], "b": []}), "linux-64", "b", ["a"]).chains == ()


def test_errors_say_what_to_ask_instead() -> None:
    with pytest.raises(LockfileError, match="no numpi in the lock") as caught:
        why(real(), "linux-64", "numpi")
    assert caught.value.fix == "did you mean numpy?"
    with pytest.raises(LockfileError, match="no platform win-64"):
        why(real(), "win-64", "numpy")
    with pytest.raises(LockfileError, match="do not list the dependencies"):
        why(read_lock(DATA / "conda-linux-64.lock"), "linux-64", "numpy")


def test_text_and_json() -> None:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    answer = why(real(), "linux-64", "libzlib", REQUESTED, most=2)
    console.print(as_text(answer))
    text = console.export_text()
    assert "python 3.11.15 → libzlib 1.3.2" in text
    assert "and longer chains" in text
    assert "What narrows libzlib:" in text
    document = json.loads(as_json(answer))
    assert document["schema"] == 1
    assert document["chains"][0]["steps"][-1]["name"] == "libzlib"


NODES = st.sampled_from([f"n{number}" for number in range(8)])


@given(st.dictionaries(NODES, st.lists(NODES, max_size=4, unique=True), min_size=1), st.data())
def test_every_chain_is_real_and_the_first_is_shortest(graph: dict[str, list[str]], data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(sorted(graph)))
    roots = data.draw(st.lists(st.sampled_from(sorted(graph)), min_size=1, unique=True))
    answer = why(lock_of(graph), "linux-64", target, roots, most=50)
    for chain in names(answer):
        assert chain[0] in roots
        assert chain[-1] == target
        assert len(set(chain)) == len(chain)
        assert all(after in graph[before] for before, after in pairwise(chain))
    # Breadth-first from the roots, the plain way, for comparison.
    level, seen, steps = set(roots), set(roots), 1
    while level and target not in level:
        level = {other for name in level for other in graph[name] if other in graph} - seen
        seen |= level
        steps += 1
    assert bool(answer.chains) == bool(level)
    if answer.chains:
        assert len(answer.chains[0].steps) == steps
