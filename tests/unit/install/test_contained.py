"""Paths of packages, and the client for packages that are all in the cache."""

from __future__ import annotations

import asyncio
import io
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.core.http import unreachable_client
from torchlocks.install.contained import Tree

PART = st.sampled_from(["a", "A", "b", "c", ".", "..", "", "conda-meta", "Conda-Meta", "d\\e"])
WRITTEN = st.lists(PART, min_size=1, max_size=5).map("/".join)


@given(links=st.dictionaries(WRITTEN, WRITTEN, max_size=4), paths=st.lists(WRITTEN, min_size=1, max_size=8))
def test_a_path_that_is_not_doubtful_stays_inside_and_out_of_conda_meta(
    links: dict[str, str], paths: list[str]
) -> None:
    tree = Tree()
    for path, target in links.items():
        tree.add(path, target)
    doubtful = set(tree.doubtful(paths))
    for path in set(paths) - doubtful:
        places, entries = tree.resolve(path), tree.entries(path)
        assert places is not None
        assert entries is not None
        assert all(place[:1] and place[0].casefold() != "conda-meta" for place in places | entries)


def test_a_path_in_very_many_folders_is_resolved() -> None:
    tree = Tree()
    assert list(tree.doubtful([f"{'a/' * 2000}b", f"{'a/' * 2000}b", "a/b"])) == []
    tree = Tree()
    tree.add("/".join("a" * 150), "b")
    assert list(tree.doubtful([f"{'a/' * 150}b"])) == []
    assert tree.resolve(f"{'a/' * 150}b") == frozenset({(*"a" * 149, "b", "b")})


@pytest.mark.parametrize(
    "variables", [{}, {"NO_PROXY": "*", "no_proxy": "*"}, {"HTTP_PROXY": "{url}", "http_proxy": "{url}"}]
)
def test_a_client_for_work_without_a_network_connects_to_no_server(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    from rattler.package_streaming import download_to_writer

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(url=url))
        with pytest.raises(Exception, match="sending request"):
            asyncio.run(download_to_writer(unreachable_client(), f"{url}/x.conda", io.BytesIO()))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
