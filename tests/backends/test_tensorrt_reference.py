"""Every name and signature of TensorRT that the backend uses stands in the published list of its Python API."""

from __future__ import annotations

from pathlib import Path

import pytest

import tersor.backends
from tersor.backends._tensorrt_options import Options
from tersor.backends._tensorrt_profiles import Profile
from tersor.backends._tensorrt_script import _RUN, build_script
from tests.backends.tensorrt_reference import REFERENCE, Kinds, parse
from tests.backends.tensorrt_signatures import SIGNATURES
from tests.backends.tensorrt_uses import uses


@pytest.fixture(scope="module")
def kinds() -> Kinds:
    if not REFERENCE.exists():
        pytest.skip(f"TensorRT's list of names is not at {REFERENCE.name}: ../shared is not beside the repository")
    return parse(REFERENCE.read_text(encoding="utf-8"))


def sources() -> dict[str, str]:
    folder = Path(next(iter(tersor.backends.__path__)))
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*tensorrt*.py"))}
    everything = Options(workspace=1.0, refit=True, strip=True, compatible=True, hardware="ampere")
    profile = Profile({"x": ((1,), (2,), (3,))})
    return {
        **found,
        "build.py": build_script([profile], everything, sparse=True),
        "build.py, other hardware": build_script([], Options(hardware="capability", tf32=True), sparse=False),
        "run.py": _RUN.format(shapes="{}"),
    }


def test_every_use_is_in_the_list(kinds: Kinds) -> None:
    found = uses(sources(), kinds)
    assert not found.bad
    assert len(set(found.good)) > 80
    for name in ("Builder.build_serialized_network()", "IExecutionContext.execute_async_v3()", "BuilderFlag.REFIT"):
        assert name in found.good


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("network.add_fully_connected(1)", "INetworkDefinition.add_fully_connected is not in"),
        ("builder.create_network(1, 2)", "takes 1 arguments, got 2"),
        ("builder.create_network(flag=1)", "unknown \\['flag'\\]"),
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16 is not in"),
        ("config.max_workspace_size = 1", "IBuilderConfig.max_workspace_size is not in"),
        ("something().execute_async_v3(1)", "unknown type"),
        ("trt.IInt8Calibrator()", "IInt8Calibrator is not in"),
    ],
)
def test_the_check_finds_what_is_gone(kinds: Kinds, line: str, message: str) -> None:
    text = (
        "import tensorrt as trt\nbuilder = trt.Builder(trt.Logger())\nnetwork = builder.create_network(0)\n"
        f"config = builder.create_builder_config()\n{line}\n"
    )
    found = uses({"example.py": text}, kinds)
    with pytest.raises(AssertionError, match=message):
        assert not found.bad, found.bad


def test_the_fake_has_the_signatures_of_the_list(kinds: Kinds) -> None:
    for name, kind in parse(SIGNATURES).items():
        wanted = kinds[name]
        assert set(kind.bases) == set(wanted.bases), name
        assert set(kind.members) <= set(wanted.members), name
        assert kind.attributes.items() <= wanted.attributes.items(), name
        assert kind.read_only == wanted.read_only & set(kind.attributes), name
        for method, signatures in kind.methods.items():
            assert set(signatures) <= set(wanted.methods[method]), f"{name}.{method}"
