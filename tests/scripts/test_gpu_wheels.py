"""``scripts/gpu_wheels.py``: what is brought along for an image, and how bitsandbytes is reduced."""

import importlib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def wheels(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("gpu_wheels")


def write_wheel(directory: Path, name: str, *needs: str, files: tuple[str, ...] = ()) -> Path:
    wheel, info = directory / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    metadata = "".join(["Metadata-Version: 2.1\n", *(f"Requires-Dist: {need}\n" for need in needs)])
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        for file in files:
            archive.writestr(file, "x")
        archive.writestr(f"{info}/RECORD", "".join(f"{file},sha256=0,1\n" for file in files))
    return wheel


def test_what_the_image_lacks_is_brought_with_what_that_needs(wheels, tmp_path, monkeypatch):
    """A version outside of the bounds is brought again; extras and other systems are not."""
    needs = {"hydra-core": ("antlr4==4.9.*", "omegaconf>=2.3"), "omegaconf": ("antlr4==4.9.*", "pyyaml"),
             "antlr4": ("typing; python_version < '3.5'",), "peft": ("torch>=2", "tomli; extra == 'dev'")}  # fmt: skip
    asked = []

    def fetch(requirement, to):
        asked.append(requirement)
        name = Requirement(requirement).name
        write_wheel(to, name, *needs[name])

    monkeypatch.setattr(wheels, "fetch", fetch)
    have = wheels.image(["torch==2.11.0+cu130", "PyYAML", "peft==0.20.0"])
    wanted = [Requirement(text) for text in ("torch>=2.11,<2.14", "hydra-core>=1.3", "peft>=0.21,<0.22")]
    found = list(wheels.download(wanted, have, tmp_path))

    assert asked == ["hydra-core>=1.3", "peft<0.22,>=0.21", "antlr4==4.9.*", "omegaconf>=2.3"]
    assert len(found) == 4


def test_other_libraries_are_dropped_from_a_wheel_and_its_record(wheels, tmp_path):
    names = ("b/cuda120.so", "b/cuda130.so", "b/cpu.so", "b/code.py")
    wheel = write_wheel(tmp_path, "b", files=names)
    wheels.keep_libraries(wheel, ("cuda130.so", "cpu.so"))

    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert sorted(name for name in archive.namelist() if name.startswith("b/")) == sorted(names[1:])
        record = archive.read("b-1.0.dist-info/RECORD").decode()
    assert [line.partition(",")[0] for line in record.splitlines()] == list(names[1:])


def test_the_image_needs_no_other_torch(wheels):
    """The assumed image satisfies the bounds of the largest packages; its transformers is too old."""
    have = wheels.image(wheels.IMAGE.split())
    brought = [need.name for need in wheels.wanted([]) if not wheels.satisfied(need, have)]

    assert {"torch", "numpy", "pyarrow", "accelerate"}.isdisjoint(brought)
    assert {"transformers", "bitsandbytes", "peft", "hydra-core"} <= set(brought)
