"""The matrix moves itself: which cells a refresh finds in tiny channels, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tiny_records import record, write_channel
from torchlocks.core.errors import NoSuchRowError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.core.workers import Here
from torchlocks.dask import messages as dask_messages
from torchlocks.locking.options import LockOptions, Solver
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.model import Matrix
from torchlocks.solve.repodata import RecordSource
from torchlocks.update import messages
from torchlocks.update.apply import write_plan
from torchlocks.update.plan_text import plan_headline, plan_lines
from torchlocks.update.refresh import Plan, plan
from torchlocks.update.search import SearchTask, search

Record = dict[str, object]

MATRIX = """\
# The table.
platforms:
  linux-64: {virtual_packages: {__unix: "0", __linux: "4.18", __glibc: "2.28"}}
drivers:
  "12.9": {linux: {floor: "525.60.13", shipped: "575.51.03"}, windows: {floor: "528.33"}}
environments:
  cpu:
    accelerator: cpu
    template: environment-cpu.yml
    channels: [conda-forge]
    platforms:
      # As the records had it.
      linux-64: {python: "3.12", pytorch: "2.10", build: "cpu*", torchvision: "0.25"}

  gpu-cu129:
    accelerator: cuda
    cuda: "12.9"
    virtual_cuda: "12.0"
    template: environment-gpu.yml
    channels: [conda-forge]
    architectures: ["5.0", "7.5", "9.0"]
    platforms:
      linux-64: {python: "3.12", pytorch: "2.10", build: "cuda129*", torchvision: "0.25"}  # the pair

# Left out on purpose.
left_out:
  "12.7": NVIDIA never released it
"""

TEMPLATE = """\
name: {{ env }}
channels: [{{ channels | join(", ") }}]
platforms: [{{ platform }}]
dependencies:
  - python {{ python }}.*
  - pytorch {{ pytorch }}.* {{ build }}
{%- if torchvision %}
  - torchvision {{ torchvision }}.* KIND*
{%- endif %}
{%- if torchaudio %}
  - torchaudio {{ torchaudio }}.*
{%- endif %}
"""
GPU = """\
  - {{ cuda_version }}
{%- for spec in constraints %}
  - {{ spec }}
{%- endfor %}
"""


def torch(version: str, python: str, kind: str = "cpu", *more: str) -> Record:
    """torch for a Python (3.12), for the CPU or `cuda129`."""
    cuda = ("cuda-version >=12.9,<13", "__cuda") if kind.startswith("cuda") else ()
    build = f"{kind}_py{python.replace('.', '')}_0"
    return record("pytorch", version, build, depends=(f"python {python}.*", *cuda, *more))


def companion(name: str, version: str, torch: str, python: str, kind: str = "cpu", build: str | None = None) -> Record:
    """torchvision or torchaudio for a torch (2.10) and a Python."""
    cuda = ("cuda-version >=12.9,<13",) if kind.startswith("cuda") else ()
    build = build or f"{kind}_py{python.replace('.', '')}_0"
    return record(name, version, build, depends=(f"python {python}.*", f"pytorch {torch}.*", *cuda))


def world(*more: Record) -> list[Record]:
    """What the matrix was made from: torch 2.10 with torchvision 0.25 for the CPU and CUDA 12.9; and `more`."""
    records = [
        *(record("python", f"{minor}.1", "h1_0_cpython") for minor in ("3.11", "3.12", "3.13")),
        record("cuda-version", "12.9", "h1_0"),
        record("cuda-version", "13.0", "h1_0"),
    ]
    for kind in ("cpu", "cuda129"):
        records += [torch("2.10.0", "3.12", kind), companion("torchvision", "0.25.0", "2.10", "3.12", kind)]
    return [*records, *more]


@contextmanager
def at_once(tasks: object) -> Iterator[Executor]:
    yield Here()


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "matrix.yml").write_text(MATRIX)
    (root / "environment-cpu.yml").write_text(TEMPLATE.replace("KIND", "cpu"))
    (root / "environment-gpu.yml").write_text(TEMPLATE.replace("KIND", "cuda") + GPU)
    return Layout(root)


def options(layout: Layout, records: list[Record]) -> LockOptions:
    snapshot = layout.root.parent / "snapshot"
    write_channel(snapshot / "conda-forge", *records)
    return LockOptions(
        source=RecordSource(snapshot=snapshot), solver=Solver(executable=Path("none"), own=True), cluster=at_once
    )


def refresh(layout: Layout, records: list[Record], **how: object) -> tuple[Plan, Matrix]:
    """The plan, and the matrix that it writes."""
    found = plan(layout, load_matrix(layout.matrix), options(layout, records), Silent(), **how)  # type: ignore[arg-type]
    return found, write_plan(layout, found)


def held(matrix: Matrix, env: str) -> str:
    target = matrix.target(env, "linux-64")
    return f"{' '.join(target.holds)} py{target.python}"


def test_without_newer_records_nothing_moves(checkout: Layout) -> None:
    found, matrix = refresh(checkout, world())
    assert not found.changed
    assert checkout.matrix.read_text() == MATRIX
    assert list(matrix.environments) == ["cpu", "gpu-cu129"]
    assert "current" in plan_headline(found)


def test_a_newer_torch_with_torchvision_becomes_the_default_and_the_old_one_a_variant(checkout: Layout) -> None:
    new = [torch("2.11.0", "3.12"), companion("torchvision", "0.26.0", "2.11", "3.12")]
    found, matrix = refresh(checkout, world(*new))
    assert held(matrix, "cpu") == "torch 2.11 torchvision 0.26 py3.12"
    # The pair of gpu-cu129 stays.
    assert held(matrix, "cpu-torch2.10-py312") == "torch 2.10 torchvision 0.25 py3.12"
    assert held(matrix, "gpu-cu129") == "torch 2.10 torchvision 0.25 py3.12"
    assert any("torch 2.10 + torchvision 0.25" in line and "→ torch 2.11" in line for line in plan_lines(found))


def test_a_newer_torch_without_torchvision_becomes_a_variant(checkout: Layout) -> None:
    _, matrix = refresh(checkout, world(torch("2.11.0", "3.12")))
    assert held(matrix, "cpu") == "torch 2.10 torchvision 0.25 py3.12"
    assert held(matrix, "cpu-torch2.11-py312") == "torch 2.11 py3.12"


def test_torchvision_and_torchaudio_that_appear_are_taken(checkout: Layout) -> None:
    text = MATRIX.replace(', torchvision: "0.25"}  # the pair', ", lacks: no build of torchvision}  # the pair")
    checkout.matrix.write_text(text)
    audio = companion("torchaudio", "2.10.0", "2.10", "3.12", "cuda129")
    _, matrix = refresh(checkout, world(audio))
    assert held(matrix, "gpu-cu129") == "torch 2.10 torchvision 0.25 torchaudio 2.10 py3.12"
    assert matrix.target("gpu-cu129", "linux-64").lacks is None


def test_a_torchaudio_of_another_accelerator_is_not_taken(checkout: Layout) -> None:
    """Its build string names CUDA's, and its dependencies do not: the template cannot tell, so the solution is read."""
    cpu = companion("torchaudio", "2.10.0", "2.10", "3.12", "cpu")
    _, matrix = refresh(checkout, world(cpu))
    assert held(matrix, "gpu-cu129") == "torch 2.10 torchvision 0.25 py3.12"
    assert held(matrix, "cpu") == "torch 2.10 torchvision 0.25 torchaudio 2.10 py3.12"


def test_a_newer_python_becomes_a_variant(checkout: Layout) -> None:
    new = [torch("2.10.0", "3.13", "cuda129"), companion("torchvision", "0.25.0", "2.10", "3.13", "cuda129")]
    _, matrix = refresh(checkout, world(*new))
    assert held(matrix, "gpu-cu129-torch2.10-py313") == "torch 2.10 torchvision 0.25 py3.13"
    # The default keeps the Python of the CPU default.
    assert held(matrix, "gpu-cu129") == "torch 2.10 torchvision 0.25 py3.12"


def test_a_new_minor_of_cuda_gets_a_row_with_the_driver_of_its_major(checkout: Layout) -> None:
    records = world(record("cuda-version", "12.10", "h1_0"))
    _, matrix = refresh(checkout, records)
    assert list(matrix.rows) == ["cpu", "gpu-cu129", "gpu-cu1210"]
    row = matrix.rows["gpu-cu1210"]
    assert (row.cuda, row.architectures) == ("12.10", ("5.0", "7.5", "9.0"))
    assert matrix.drivers["12.10"].linux.floor == "525.60.13"
    assert held(matrix, "gpu-cu1210") == "torch 2.10 torchvision 0.25 py3.12"


def test_a_cuda_minor_that_nothing_solves_for_gets_no_row(checkout: Layout) -> None:
    records = [each for each in world() if each["version"] != "12.9"]
    records += [record("cuda-version", "12.9", "h1_0"), record("cuda-version", "12.10", "h1_0", depends=("nowhere",))]
    found, matrix = refresh(checkout, records)
    assert list(matrix.rows) == ["cpu", "gpu-cu129"]
    assert any(line.startswith("no row: CUDA 12.10") for line in plan_lines(found))
    assert any(line.startswith("no row: CUDA 13.0") for line in plan_lines(found))


def test_libraries_are_held_back_for_gpus_that_the_row_promises(checkout: Layout) -> None:
    """cuDNN 9.13 has no code below 7.5, so the row gets a constraint; where none solves, it stays as it is."""
    records = [each for each in world() if each["build"] != "cuda129_py312_0" or each["name"] != "pytorch"]
    records += [torch("2.10.0", "3.12", "cuda129", "cudnn"), record("cudnn", "9.13.0", "h1_0")]
    found, matrix = refresh(checkout, records)
    assert not matrix.rows["gpu-cu129"].constraints
    assert not found.changed
    assert any("cuDNN 9.13.0" in line for line in plan_lines(found))

    found, matrix = refresh(checkout, [*records, record("cudnn", "9.10.0", "h1_0")])
    assert matrix.rows["gpu-cu129"].constraints == ("cudnn <9.11",)
    assert held(matrix, "gpu-cu129") == "torch 2.10 torchvision 0.25 py3.12"


def test_what_a_cell_may_lose_is_named(checkout: Layout) -> None:
    without_vision = [each for each in world(torch("2.11.0", "3.12")) if each["name"] != "torchvision"]
    found, matrix = refresh(checkout, without_vision)
    assert held(matrix, "cpu") == "torch 2.10 torchvision 0.25 py3.12"
    assert any("--allow-loss torchvision" in line for line in plan_lines(found))
    _, matrix = refresh(checkout, without_vision, allow=["torchvision"])
    assert held(matrix, "cpu") == "torch 2.11 py3.12"
    assert matrix.target("cpu", "linux-64").lacks


def test_a_platform_stays_where_nothing_solves(checkout: Layout) -> None:
    records = [each for each in world() if "cuda129" not in str(each["build"])]
    found, _ = refresh(checkout, records)
    assert not found.changed
    assert any("--allow-loss platform" in line for line in plan_lines(found))


def test_an_old_variant_goes_when_its_python_has_a_newer_torch_with_as_much(checkout: Layout) -> None:
    text = MATRIX.replace(
        'torchvision: "0.25"}\n\n',
        'torchvision: "0.25"}\n    variants:\n      linux-64:\n        - {pytorch: "2.6"}\n\n',
    )
    checkout.matrix.write_text(text)
    newer = [
        each
        for minor, vision in (("2.11", "0.26"), ("2.12", "0.27"))
        for each in (torch(f"{minor}.0", "3.12"), companion("torchvision", f"{vision}.0", minor, "3.12"))
    ]
    found, matrix = refresh(checkout, world(torch("2.6.0", "3.12"), *newer))
    assert list(matrix.rows["cpu"].variant_rows("cpu")) == ["cpu-torch2.11-py312", "cpu-torch2.10-py312"]
    assert any("replaced: cpu-torch2.6-py312" in line for line in plan_lines(found))


def test_the_cuda_side_of_a_pair_is_held_at_the_patch_of_the_cpu_side(checkout: Layout) -> None:
    _, matrix = refresh(checkout, world(torch("2.10.1", "3.12", "cuda129")))
    assert matrix.target("gpu-cu129", "linux-64").release == "2.10.0"
    _, matrix = refresh(checkout, world(torch("2.10.1", "3.12", "cuda129")), env="gpu-cu129")
    assert matrix.target("gpu-cu129", "linux-64").release == "2.10.0"
    _, matrix = refresh(checkout, world(torch("2.10.1", "3.12", "cuda129"), torch("2.10.1", "3.12")))
    assert matrix.target("gpu-cu129", "linux-64").release is None


def test_a_default_without_a_pair_is_named_with_what_is_missing(checkout: Layout) -> None:
    new = [torch("2.11.0", "3.12", "cuda129"), companion("torchvision", "0.26.0", "2.11", "3.12", "cuda129")]
    found, matrix = refresh(checkout, world(*new))
    assert held(matrix, "gpu-cu129") == "torch 2.11 torchvision 0.26 py3.12"
    assert any(
        line.startswith("no pair: gpu-cu129") and "no CPU build of torch 2.11" in line for line in plan_lines(found)
    )


def test_comments_and_what_did_not_move_are_kept(checkout: Layout) -> None:
    new = [torch("2.11.0", "3.12"), companion("torchvision", "0.26.0", "2.11", "3.12")]
    refresh(checkout, world(*new, record("cuda-version", "12.10", "h1_0")))
    lines = checkout.matrix.read_text().splitlines()
    kept = [
        line for line in MATRIX.splitlines() if "#" in line or line.startswith("  linux-64") or "NVIDIA never" in line
    ]
    assert [line for line in lines if line in kept] == kept
    assert lines.index("# Left out on purpose.") > lines.index("  gpu-cu1210:")


def test_the_pair_of_a_row_that_is_not_refreshed_stays(checkout: Layout) -> None:
    newer = [
        each
        for minor, vision in (("2.11", "0.26"), ("2.12", "0.27"), ("2.13", "0.28"))
        for each in (torch(f"{minor}.0", "3.12"), companion("torchvision", f"{vision}.0", minor, "3.12"))
    ]
    _, matrix = refresh(checkout, world(*newer), env="cpu")
    assert held(matrix, "cpu") == "torch 2.13 torchvision 0.28 py3.12"
    assert held(matrix, "cpu-torch2.10-py312") == "torch 2.10 torchvision 0.25 py3.12"


def test_one_row_can_be_refreshed_alone(checkout: Layout) -> None:
    new = [torch("2.11.0", "3.12", kind) for kind in ("cpu", "cuda129")]
    found, matrix = refresh(checkout, world(*new), env="cpu")
    assert {decision.place.name for decision in found.decisions} == {"cpu"}
    assert "gpu-cu129-torch2.11-py312" not in matrix.environments
    with pytest.raises(NoSuchRowError):
        plan(checkout, matrix, options(checkout, world()), Silent(), env="nothing")


def test_as_of_hides_newer_records(checkout: Layout) -> None:
    late = {**torch("2.11.0", "3.12"), "timestamp": 1_790_000_000_000}
    how = options(checkout, world(late))
    early = RecordSource(snapshot=how.source.snapshot, as_of=date(2026, 6, 1))
    matrix = load_matrix(checkout.matrix)
    assert plan(checkout, matrix, how, Silent()).changed
    assert not plan(checkout, matrix, replace(how, source=early), Silent()).changed


def test_rows_that_merge_another_move_with_it_or_part(checkout: Layout) -> None:
    """`<<` shares platforms and variants: what moves alike is written once, and what does not gets its own."""
    merged = MATRIX.replace("  gpu-cu129:\n", "  gpu-cu129: &cuda12\n").replace(
        "\n# Left out", '\n  gpu-cu1210:\n    <<: *cuda12\n    cuda: "12.10"\n\n# Left out'
    )
    merged = merged.replace(
        "environments:\n", '  "12.10": {linux: {floor: "525"}, windows: {floor: "528"}}\nenvironments:\n'
    )
    checkout.matrix.write_text(merged)
    versions = [record("cuda-version", "12.10", "h1_0")]
    _, matrix = refresh(checkout, world(*versions, torch("2.11.0", "3.12", "cuda129")))
    assert [held(matrix, f"{row}-torch2.11-py312") for row in ("gpu-cu129", "gpu-cu1210")] == ["torch 2.11 py3.12"] * 2
    assert checkout.matrix.read_text().count("2.11") == 1

    only = torch("2.12.0", "3.12", "cuda129", "cuda-version 12.10.*")
    _, matrix = refresh(checkout, world(*versions, torch("2.11.0", "3.12", "cuda129"), only))
    assert "gpu-cu1210-torch2.12-py312" in matrix.environments
    assert "gpu-cu129-torch2.12-py312" not in matrix.environments


def test_workers_of_a_scheduler_find_the_same(checkout: Layout) -> None:
    """Tasks and results travel as JSON, and an answer to something else is refused."""
    how = options(checkout, world(torch("2.11.0", "3.12")))
    here = plan(checkout, load_matrix(checkout.matrix), how, Silent())
    messages.register()
    kind = dask_messages.KINDS[search]
    seen: list[dict[str, object]] = []

    class Far(Here):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            def far(task: Any) -> Any:
                sent = json.loads(json.dumps(kind.pack(task)))
                answer = json.loads(json.dumps(messages.perform(sent, how.source.snapshot)))
                seen.append(answer)
                return kind.read(answer, task)

            return super().submit(far, *args, **kwargs)

    @contextmanager
    def cluster(tasks: object) -> Iterator[Executor]:
        yield Far()

    there = plan(checkout, load_matrix(checkout.matrix), replace(how, cluster=cluster), Silent())
    assert plan_lines(there) == plan_lines(here)
    assert seen
    task = SearchTask(
        run="", source=how.source, target=load_matrix(checkout.matrix).target("cpu", "linux-64"), groups=()
    )
    with pytest.raises(ValueError, match="not requested"):
        kind.read(next(each for each in seen if each["results"]), task)
