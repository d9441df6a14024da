"""The doctor on recorded machines: what it recommends, how it says so, and what it refuses to build."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from recorded_hosts import NAMES, host_of
from torchlocks.core.errors import MissingFileError, NoSuchRowError, UnfitHostError
from torchlocks.core.layout import Layout
from torchlocks.host.doctor import Diagnosis, diagnose
from torchlocks.host.doctor_report import diagnosis_json, diagnosis_lines, diagnosis_text
from torchlocks.host.record import Host, read_host
from torchlocks.install.provenance import Provenance, write_provenance
from torchlocks.matrix.load import load_matrix
from torchlocks.workflow.choose import choose_gpu_environment, choose_installed

MATRIX = load_matrix(Path(__file__).resolve().parents[3] / "matrix.yml")

#: For each recorded machine the environment to use, and a piece of advice that it must get, or None.
BEST = {
    "no-driver": ("cpu", "torchlocks doctor --json > host.json"),
    "old-driver": ("gpu-cu118", "With driver 525.60.13 or newer, gpu-cu121"),
    "too-old-for-13": ("gpu-cu129", "With driver 580 or newer, gpu-cu130"),
    "wsl": ("gpu-cu129", "or newer on Windows"),
    "jetson-orin": ("cpu", None),
    "jetson-orin-jetpack7": ("cpu", None),
    "jetson-thor": ("gpu-cu133", None),
    "mixed-gpus": ("gpu-cu129", None),  # the newest that runs on all three
    "newest-driver": ("gpu-cu133", None),
    "h100-early": ("gpu-cu129", "With driver 580"),
    "mismatch": ("cpu", "restart the machine"),
    "no-permission": ("cpu", "may not use the GPUs"),
    "not-loaded": ("cpu", None),
    "container": ("cpu", "--gpus all"),
    "no-nvml": ("gpu-cu129", None),
    "lost-gpu": ("gpu-cu129", None),
    "login-node": ("gpu-cu129", None),
    "old-system": ("gpu-cu124", "For the others, use a system with glibc 2.28"),
}


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Host:
    """The recorded machine that the test is parametrised with."""
    return host_of(request.param, tmp_path / "root", monkeypatch)


def text_of(diagnosis: Diagnosis, width: int = 80) -> str:
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(diagnosis_text(diagnosis))
    return out.getvalue()


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("seen", list(BEST), indirect=["seen"])
def test_what_goes_to_a_file_is_the_same_without_folded_lines(seen: Host) -> None:
    found = diagnose(MATRIX, seen, installed={"cpu": True}, proven={"cpu": "on a machine"})
    lines = diagnosis_lines(found)
    assert sorted(lines.split()) == sorted(text_of(found, width=1000).split())
    assert sum(line.startswith(("cpu", "gpu-cu")) for line in lines.splitlines()) == len(found.results) + 1
    hostile = replace(found, proven={"cpu": "a\x1b[31mb"})
    assert "\x1b" not in diagnosis_lines(hostile)


def test_every_recorded_machine_is_checked() -> None:
    assert set(BEST) == set(NAMES)


@pytest.mark.parametrize(("seen", "best"), [(name, best) for name, (best, _) in BEST.items()], indirect=["seen"])
def test_the_best_environment(seen: Host, best: str) -> None:
    assert diagnose(MATRIX, seen).best == best


@pytest.mark.parametrize(
    ("seen", "advice"), [(name, advice) for name, (_, advice) in BEST.items() if advice], indirect=["seen"]
)
def test_the_advice(seen: Host, advice: str) -> None:
    diagnosis = diagnose(MATRIX, seen)
    assert any(advice in sentence for sentence in diagnosis.advice)
    assert advice in unwrapped(text_of(diagnosis))


@pytest.mark.parametrize("seen", NAMES, indirect=True)
def test_the_text_fits_and_is_never_cut(seen: Host) -> None:
    diagnosis = diagnose(MATRIX, seen)
    for width in (80, 50, 200):
        text = text_of(diagnosis, width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "…" not in re.sub(r"CUDA=…|--cuda\s+…", "", text)
        assert all(result.env in text for result in diagnosis.results)


@pytest.mark.parametrize("seen", ["mixed-gpus", "jetson-orin"], indirect=True)
def test_the_text_gives_the_reason(seen: Host) -> None:
    text = unwrapped(text_of(diagnose(MATRIX, seen), width=300))
    says = {
        "jetson": "does not run conda-forge's CUDA 12.6 for aarch64 is built for servers (SBSA), not for Jetson",
        "native": "GPU 1 (NVIDIA GeForce GTX 1080) is sm_61, and torch has no code for GPUs older than sm_75",
    }
    assert says[seen.kind] in text


@pytest.mark.parametrize("seen", NAMES, indirect=True)
def test_the_json_is_a_host_record_that_gives_the_same_diagnosis(seen: Host, tmp_path: Path) -> None:
    diagnosis = diagnose(MATRIX, seen)
    text = diagnosis_json(diagnosis)
    (tmp_path / "host.json").write_text(text, encoding="utf-8")
    assert diagnose(MATRIX, read_host(tmp_path / "host.json")) == diagnosis
    loaded = json.loads(text)
    assert [each["env"] for each in loaded["environments"]] == list(MATRIX.rows)
    assert loaded["best"] == diagnosis.best


def test_only_locked_environments_are_checked() -> None:
    diagnosis = diagnose(MATRIX, Host(platform="linux-64", glibc="2.35"), locked={"cpu", "gpu-cu118"})
    assert [result.env for result in diagnosis.results] == ["cpu", "gpu-cu118"]


@pytest.mark.parametrize(
    ("seen", "cuda"),
    [("old-driver", "11.8"), ("too-old-for-13", "12.9"), ("newest-driver", "13.3"), ("login-node", "12.9")],
    indirect=["seen"],
)
def test_auto_takes_the_newest_that_runs(seen: Host, cuda: str) -> None:
    choice = choose_gpu_environment(MATRIX, seen, "auto")
    assert choice.env == MATRIX.gpu_environment(cuda, seen.platform)
    assert f"CUDA=auto is {cuda}" in choice.notes[0]


@pytest.mark.parametrize("seen", ["too-old-for-13"], indirect=True)
def test_auto_of_the_local_channel_takes_what_that_has(seen: Host) -> None:
    assert choose_gpu_environment(MATRIX, seen, "auto", local=True).env == "gpu-cu128"


@pytest.mark.parametrize("seen", ["no-driver", "not-loaded"], indirect=True)
def test_auto_without_a_driver_names_the_versions(seen: Host) -> None:
    with pytest.raises(NoSuchRowError, match="this machine has none") as caught:
        choose_gpu_environment(MATRIX, seen, "auto")
    assert "11.8" in str(caught.value)


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ("mismatch", "restart the machine"),
        ("container", "--gpus all"),
        ("jetson-orin", "built for servers"),
        ("jetson-orin-jetpack7", "try one of 13.0, 13.1, 13.2, 13.3"),
    ],
    indirect=["seen"],
)
def test_auto_where_nothing_runs_gives_the_reason(seen: Host, says: str) -> None:
    with pytest.raises(UnfitHostError) as caught:
        choose_gpu_environment(MATRIX, seen, "auto")
    assert says in str(caught.value)


def test_auto_on_a_platform_without_cuda() -> None:
    with pytest.raises(NoSuchRowError, match="no CUDA environment for osx-arm64"):
        choose_gpu_environment(MATRIX, Host(platform="osx-arm64", osx="14.0"), "auto")


@pytest.mark.parametrize("seen", ["old-driver"], indirect=True)
def test_a_driver_below_the_floor_is_refused_with_driver_and_row(seen: Host) -> None:
    with pytest.raises(UnfitHostError) as caught:
        choose_gpu_environment(MATRIX, seen, "12.9")
    said = str(caught.value)
    assert "driver 470.82.01 is older than 525.60.13" in said
    assert "install driver 525.60.13 or newer" in said
    assert "make env-gpu CUDA=11.8" in said
    assert "Tesla V100" in said


@pytest.mark.parametrize("seen", ["old-driver"], indirect=True)
def test_no_driver_is_recommended_to_gpus_that_have_no_code(seen: Host) -> None:
    with pytest.raises(UnfitHostError) as caught:
        choose_gpu_environment(MATRIX, seen, "13.1")
    assert "install driver" not in str(caught.value)
    assert "sm_70" in str(caught.value)


@pytest.mark.parametrize("seen", ["old-driver"], indirect=True)
def test_the_way_round_a_refusal_works(seen: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnfitHostError, match=r"CONDA_OVERRIDE_CUDA= make env-gpu CUDA=13\.1"):
        choose_gpu_environment(MATRIX, seen, "13.1")
    elsewhere = host_of("old-driver", tmp_path, monkeypatch, CONDA_OVERRIDE_CUDA="")
    assert choose_gpu_environment(MATRIX, elsewhere, "13.1").env == "gpu-cu131"


@pytest.mark.parametrize("seen", ["no-driver", "login-node", "mismatch"], indirect=True)
def test_no_gpu_is_a_note_and_an_error_where_one_is_required(seen: Host) -> None:
    choice = choose_gpu_environment(MATRIX, seen, "11.8")
    assert choice.env == "gpu-cu118"
    assert any("REQUIRE_GPU=1" in note for note in choice.notes)
    with pytest.raises(UnfitHostError, match="REQUIRE_GPU=1"):
        choose_gpu_environment(MATRIX, seen, "11.8", require_gpu=True)


@pytest.mark.parametrize("seen", ["h100-early"], indirect=True)
def test_what_holds_for_the_gpus_is_noted(seen: Host) -> None:
    choice = choose_gpu_environment(MATRIX, seen, "11.8", require_gpu=True)
    assert "only PTX" in " ".join(choice.notes)


@pytest.mark.parametrize("seen", ["no-driver"], indirect=True)
def test_a_version_without_a_row_is_refused_with_its_neighbours(seen: Host) -> None:
    with pytest.raises(NoSuchRowError) as caught:
        choose_gpu_environment(MATRIX, seen, "12.3")
    assert "CUDA=12.1" in str(caught.value)
    assert "CUDA=12.4" in str(caught.value)


def installed(root: Path, env: str, *, verified: bool | None = True, platform: str = "linux-64") -> Layout:
    """A checkout in which `env` counts as installed."""
    prefix = root / "envs" / env
    (prefix / "conda-meta").mkdir(parents=True)
    write_provenance(
        prefix,
        Provenance(
            install_id="1",
            installed_at="2026-11-01T00:00:00Z",
            prefix=str(prefix),
            name=env,
            lock_sha256="0" * 64,
            lock_kind="conda-lock",
            lock_name="conda-lock.yml",
            platform=platform,
            channel="auto",
            channels_used=("https://conda.anaconda.org/conda-forge",),
            records=(),
            verified=verified,
        ),
    )
    return Layout(root)


@pytest.mark.parametrize(
    ("seen", "env"),
    [
        ("no-driver", "cpu"),
        ("old-driver", "gpu-cu118"),
        ("too-old-for-13", "gpu-cu129"),
        ("mixed-gpus", "gpu-cu129"),
        ("login-node", "cpu"),  # no GPU to use
        ("mismatch", "cpu"),
    ],
    indirect=["seen"],
)
def test_the_best_installed_environment(seen: Host, env: str, tmp_path: Path) -> None:
    for name in ("cpu", "gpu-cu118", "gpu-cu129", "gpu-cu131"):
        installed(tmp_path, name)
    choice = choose_installed(Layout(tmp_path), MATRIX, seen)
    assert choice.env == env
    assert f"ENV=auto is {env}" in choice.notes[0]


@pytest.mark.parametrize("seen", ["too-old-for-13"], indirect=True)
def test_an_environment_that_failed_or_was_never_verified_is_not_chosen(seen: Host, tmp_path: Path) -> None:
    installed(tmp_path, "cpu")
    installed(tmp_path, "gpu-cu129", verified=False)
    installed(tmp_path, "gpu-cu126", verified=None)
    choice = choose_installed(Layout(tmp_path), MATRIX, seen)
    assert choice.env == "cpu"
    assert "make env-gpu CUDA=12.9" in choice.notes[0]


@pytest.mark.parametrize("seen", ["too-old-for-13", "no-driver"], indirect=True)
def test_nothing_installed_names_what_to_make(seen: Host, tmp_path: Path) -> None:
    installed(tmp_path, "gpu-cu131")
    installed(tmp_path, "cpu", platform="osx-arm64")
    with pytest.raises(MissingFileError) as caught:
        choose_installed(Layout(tmp_path), MATRIX, seen)
    assert "make env-cpu" in str(caught.value)
    assert ("make env-gpu CUDA=12.9" in str(caught.value)) is bool(seen.gpus)


def test_the_record_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "choose-cuda.md").read_text(encoding="utf-8")
    (record,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "host.json").write_text(record, encoding="utf-8")
    assert diagnose(MATRIX, read_host(tmp_path / "host.json")).best == "gpu-cu129"


@pytest.mark.parametrize("seen", ["no-driver"], indirect=True)
def test_what_is_installed_is_shown_and_not_built_again(seen: Host) -> None:
    diagnosis = diagnose(MATRIX, seen, installed={"cpu": True, "gpu-cu118": None})
    assert not any("make env-cpu" in sentence for sentence in diagnosis.advice)
    assert any("make shell ENV=cpu" in sentence for sentence in diagnosis.advice)
    rows = {line.split()[0].rstrip("*"): line for line in text_of(diagnosis, 120).splitlines() if line.split()}
    assert "verified" in rows["cpu"]
    assert "not verified" in rows["gpu-cu118"]
    for verdict, command in ((None, "make verify ENV=cpu"), (False, "failed its verification")):
        advice = diagnose(MATRIX, seen, installed={"cpu": verdict}).advice
        assert any(command in sentence for sentence in advice)


@pytest.mark.parametrize("seen", ["no-driver", "old-system"], indirect=True)
def test_a_reason_that_many_share_is_printed_once(seen: Host) -> None:
    text = text_of(diagnose(MATRIX, seen), 200)
    assert max(text.count(said) for said in ("can be built", "use a system with glibc")) == 1


@pytest.mark.parametrize(
    ("asked", "meant"), [("13", "13.3"), ("cu126", "12.6"), ("126", "12.6"), ("12.6.3", "12.6"), ("gpu-cu118", "11.8")]
)
def test_a_way_of_writing_a_version_is_answered_with_the_row(asked: str, meant: str) -> None:
    with pytest.raises(NoSuchRowError, match="not a CUDA version") as caught:
        MATRIX.gpu_environment(asked, "linux-64")
    assert str(caught.value.fix).startswith(f"CUDA={meant} ")
