"""Virtual packages: of a lockfile, of `matrix.yml`, and as they are shown."""

from __future__ import annotations

import pytest

from torchlocks.lockfile.virtual import VirtualPackage, parse_virtual


@pytest.mark.parametrize(
    ("text", "value", "shown", "full"),
    [
        ("__glibc=2.28", "2.28", "2.28", ("2.28", "0")),
        ("__archspec=1=x86_64_v3", "1 x86_64_v3", "1=x86_64_v3", ("1", "x86_64_v3")),
        ("__unix", "0", "0", ("0", "0")),
        ("__linux=6.1=0", "6.1 0", "6.1=0", ("6.1", "0")),
    ],
)
def test_a_virtual_package_in_each_form(text: str, value: str, shown: str, full: tuple[str, str]) -> None:
    (found,) = parse_virtual([text]).values()
    assert (found.value, found.text, found.full) == (value, shown, full)
    assert VirtualPackage.from_value(value) == found
