"""Looking at a machine: NVML's answers and refusals, what the kernel publishes, overrides, host records."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorded_hosts import NAMES, facts_of, host_of, recording
from torchlocks.core.errors import HostRecordError
from torchlocks.host.detect import detect_host
from torchlocks.host.doctor import diagnose
from torchlocks.host.nvidia import Gpu, NvidiaFacts, nvidia_facts, tegra_chip
from torchlocks.host.record import Host, read_host
from torchlocks.matrix.load import load_matrix

MATRIX = load_matrix(Path(__file__).resolve().parents[3] / "matrix.yml")


def test_a_machine_without_nvidia_is_nothing_to_talk_about(tmp_path: Path) -> None:
    assert facts_of("no-driver", tmp_path) == NvidiaFacts()


def test_nvml_reports_driver_cuda_and_gpus(tmp_path: Path) -> None:
    facts = facts_of("too-old-for-13", tmp_path)
    assert (facts.driver, facts.cuda, facts.source) == ("535.104.05", "12.2", "NVML")
    gpu = Gpu(index=0, name="NVIDIA A100-SXM4-80GB", compute_capability="8.0", memory_bytes=80 * 2**30, mig=False)
    assert facts.gpus == (gpu,)
    assert facts.notes == ()


def test_several_kinds_of_gpu_keep_their_order_and_mig(tmp_path: Path) -> None:
    gpus = facts_of("mixed-gpus", tmp_path).gpus
    assert [(gpu.index, gpu.compute_capability, gpu.mig) for gpu in gpus] == [
        (0, "8.0", True),
        (1, "6.1", None),
        (2, "12.0", None),
    ]


def test_a_gpu_that_is_lost_is_named_and_the_other_kept(tmp_path: Path) -> None:
    facts = facts_of("lost-gpu", tmp_path)
    assert [(gpu.index, gpu.compute_capability, gpu.memory_bytes) for gpu in facts.gpus] == [(1, None, None)]
    assert facts.cuda is None
    assert any("GPU 0" in note and "restart" in note for note in facts.notes)
    assert any("GPU 1: its compute capability" in note for note in facts.notes)


def test_a_library_that_does_not_match_leaves_what_the_kernel_publishes(tmp_path: Path) -> None:
    facts = facts_of("mismatch", tmp_path)
    assert (facts.driver, facts.source) == ("550.54.14", "kernel driver")
    assert [gpu.name for gpu in facts.gpus] == ["NVIDIA L4", "NVIDIA L40S"]  # by PCI bus id, as NVML would
    assert facts.problem is not None
    assert "restart the machine" in facts.problem


@pytest.mark.parametrize(
    ("name", "driver", "says"),
    [
        ("no-permission", "550.54.14", "this user may not use the GPUs"),
        ("not-loaded", None, "not loaded"),
        ("container", "535.183.01", "not installed"),
    ],
)
def test_nvml_that_refuses_gives_the_reason(tmp_path: Path, name: str, driver: str | None, says: str) -> None:
    facts = facts_of(name, tmp_path)
    assert facts.driver == driver
    assert says in " ".join(facts.notes)


def test_a_container_without_its_gpus_gets_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("container", tmp_path, monkeypatch)
    assert host.problem is not None
    assert "--gpus" in host.problem
    # With libcuda there, the same kernel files are no problem at all.
    assert host_of("no-nvml", tmp_path, monkeypatch).problem is None


def test_without_nvml_libcuda_fills_up_cuda_and_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("no-nvml", tmp_path, monkeypatch)
    assert (host.cuda, host.cuda_arch, len(host.gpus)) == ("12.2", "7.5", 2)


@pytest.mark.parametrize(("name", "kind"), [("wsl", "wsl"), ("jetson-orin", "jetson"), ("jetson-thor", "jetson")])
def test_the_kind_of_machine_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    assert host_of(name, tmp_path, monkeypatch).kind == kind


def test_a_jetson_without_nvml_is_known_by_its_device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("jetson-orin", tmp_path, monkeypatch)
    assert [(gpu.name, gpu.compute_capability) for gpu in host.gpus] == [
        ("NVIDIA Jetson AGX Orin Developer Kit", "8.7")
    ]
    assert host.cuda == "12.6"
    (tmp_path / "proc/device-tree/compatible").unlink()
    assert tegra_chip(tmp_path) == "tegra"  # by /etc/nv_tegra_release, which names no chip


def test_nvml_that_fails_to_close_loses_nothing(tmp_path: Path) -> None:
    from recorded_hosts import Replay

    answers = recording("wsl")["nvml"] | {"shutdown": {"error": 999}}
    assert nvidia_facts(tmp_path, Replay(answers)).driver == "551.61"


@given(st.text(), st.text(max_size=20))
def test_whatever_the_kernel_publishes_is_read_or_left(
    tmp_path_factory: pytest.TempPathFactory, a: str, b: str
) -> None:
    from recorded_hosts import Replay

    root = tmp_path_factory.mktemp("root")
    for path, text in (("proc/driver/nvidia/version", f"NVRM version: {a}"), ("sys/module/nvidia/version", b)):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(text.encode("utf-8", "surrogatepass"))
    facts = nvidia_facts(root, Replay({"init": {"error": 12}}))
    assert facts.driver is None or facts.driver in a + b


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_every_machine_reads_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    host = host_of(name, tmp_path, monkeypatch)
    record = tmp_path / "host.json"
    record.write_text(json.dumps(asdict(host)), encoding="utf-8")
    assert read_host(record) == host


def test_an_override_of_cuda_stands_in_for_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("too-old-for-13", tmp_path, monkeypatch, CONDA_OVERRIDE_CUDA="13.1")
    assert (host.driver, host.cuda, len(host.gpus)) == (None, "13.1", 1)
    assert "535.104.05" in host.notes[0]
    assert host.overrides == ("CONDA_OVERRIDE_CUDA=13.1",)


def test_an_empty_override_of_cuda_takes_driver_and_gpus_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("mismatch", tmp_path, monkeypatch, CONDA_OVERRIDE_CUDA="")
    assert not host.has_driver
    assert (host.gpus, host.problem) == ((), None)


def test_an_override_alone_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("no-driver", tmp_path, monkeypatch, CONDA_OVERRIDE_CUDA="12.4", CONDA_OVERRIDE_CUDA_ARCH="9.0")
    assert (host.cuda, host.cuda_arch) == ("12.4", "9.0")
    assert host.virtual_packages["__cuda_arch"] == "9.0"


def test_an_architecture_without_cuda_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # CEP 46: __cuda_arch is only there where __cuda is; rattler drops it as well.
    host = host_of("no-driver", tmp_path, monkeypatch, CONDA_OVERRIDE_CUDA_ARCH="9.0")
    assert host.gpus == ()
    assert any("CONDA_OVERRIDE_CUDA too" in note for note in host.notes)


@pytest.mark.parametrize("value", ["12x", "latest", "12", "-1.0", "12.٤", "9" * 5000 + ".0"])
@pytest.mark.parametrize("name", ["CONDA_OVERRIDE_CUDA", "CONDA_OVERRIDE_CUDA_ARCH"])
def test_an_override_that_is_no_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(HostRecordError, match=name):
        host_of("too-old-for-13", tmp_path, monkeypatch, **{name: value})


def test_overrides_of_glibc_and_cpu_come_from_rattler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_SUBDIR", "linux-64")
    monkeypatch.setenv("CONDA_OVERRIDE_GLIBC", "2.17")
    monkeypatch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v2")
    host = detect_host(nvidia=NvidiaFacts())
    assert (host.glibc, host.cpu_level) == ("2.17", "x86_64_v2")


def test_an_override_that_rattler_refuses_is_an_error_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_SUBDIR", "linux-64")
    monkeypatch.setenv("CONDA_OVERRIDE_GLIBC", "not a version")
    with pytest.raises(HostRecordError, match="virtual packages"):
        detect_host(nvidia=NvidiaFacts())


def test_a_version_for_conda_that_nothing_compares_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_SUBDIR", "linux-64")
    monkeypatch.setenv("CONDA_OVERRIDE_GLIBC", "abc")
    with pytest.raises(HostRecordError, match="CONDA_OVERRIDE_GLIBC=abc is not a version"):
        detect_host(nvidia=NvidiaFacts())


def test_hidden_gpus_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("mixed-gpus", tmp_path, monkeypatch, CUDA_VISIBLE_DEVICES="")
    assert any("CUDA_VISIBLE_DEVICES" in note for note in host.notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "is not valid"),
        ('{"platform": 3}', "platform"),
        ('{"platform": "linux-64", "driver": "new"}', "driver"),
        ('{"platform": "linux-64", "surprise": 1}', "surprise"),
        ('{"host": {"platform": "linux-64", "gpus": [{"index": 0}]}}', "gpus.0.name"),
    ],
)
def test_an_invalid_record_is_refused_with_a_message(tmp_path: Path, text: str, says: str) -> None:
    record = tmp_path / "host.json"
    record.write_text(text, encoding="utf-8")
    with pytest.raises(HostRecordError) as caught:
        read_host(record)
    assert says in str(caught.value)
    assert str(record) in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_record_may_come_from_a_shell_of_windows(tmp_path: Path, encoding: str) -> None:
    record = tmp_path / "host.json"
    record.write_text('{"platform": "win-64", "system": "Büro"}', encoding=encoding)
    assert read_host(record).system == "Büro"


_VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True)
_ANYTHING = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | _VERSIONS | st.lists(st.integers())
_GPUS = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(0, 3), "name": st.text(max_size=5)}, optional={"compute_capability": _ANYTHING}
    ),
    max_size=2,
)


@given(
    st.fixed_dictionaries(
        {"platform": st.sampled_from(["linux-64", "linux-aarch64", "win-64"])},
        optional={
            "kind": st.sampled_from(["native", "wsl", "jetson", "other"]),
            "glibc": _ANYTHING,
            "driver": _ANYTHING,
            "cuda": _ANYTHING,
            "gpus": _GPUS | _ANYTHING,
            "problem": _ANYTHING,
        },
    )
)
def test_any_record_is_accepted_or_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    record = tmp_path_factory.mktemp("record") / "host.json"
    record.write_text(json.dumps(document), encoding="utf-8")
    try:
        host = read_host(record)
    except HostRecordError as error:
        assert error.fix  # noqa: PT017
        return
    assert diagnose(MATRIX, host).advice


def test_a_record_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostRecordError, match="Cannot read"):
        read_host(tmp_path / "none.json")


def test_a_record_may_be_the_host_part_or_the_whole_diagnosis(tmp_path: Path) -> None:
    host = Host(platform="linux-64", glibc="2.35")
    for document in (asdict(host), {"host": asdict(host), "advice": []}):
        (tmp_path / "host.json").write_text(json.dumps(document), encoding="utf-8")
        assert read_host(tmp_path / "host.json") == host
