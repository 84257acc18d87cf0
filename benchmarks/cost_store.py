"""Writes the models of the CPU cost benchmarks once: each as an ONNX file and as a plain graph, rewritten or not.

Run: python benchmarks/cost_store.py [--only TEXT] [--limit SECONDS]
Everything goes to out/cost, which is not part of the project; what is there is not made again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import fx
from torch.utils import _pytree as pytree

FOLDER = Path("out/cost")
_TIMM = (
    "resnet18,resnet26,resnet50,resnext50_32x4d,wide_resnet50_2,seresnet18,skresnet18,res2net50_26w_4s,densenet121,"
    "mobilenetv2_100,mobilenetv3_large_100,mobilenetv3_small_050,efficientnet_b0,efficientnet_lite0,mnasnet_100,"
    "tinynet_e,lcnet_050,fbnetc_100,regnetx_004,regnety_004,convnext_atto,convnextv2_atto,ghostnet_100,repvgg_a0,"
    "edgenext_xx_small,mobilevit_xxs,vit_tiny_patch16_224,deit_small_patch16_224,swin_tiny_patch4_window7_224,"
    "mixer_s32_224,resmlp_12_224,poolformer_s12,pvt_v2_b0,levit_128s,xcit_nano_12_p16_224,cait_xxs24_224,dla34,"
    "ese_vovnet19b_dw,selecsls42b,hrnet_w18_small,pit_ti_224,coat_lite_tiny,gmixer_24_224,inception_v3"
)
_OTHERS = (
    "torchvision:squeezenet1_1,torchvision:shufflenet_v2_x1_0,torchvision:alexnet,torchvision:vgg11,"
    "torchvision:googlenet,zoo:digits-cnn,zoo:digits-vit,zoo:text-encoder,zoo:unet,zoo:convnext,zoo:swin,zoo:decoder,"
    "hf:bert,hf:llama,hf:t5-encoder,bert:minilm-128,bert:minilm-32,bert:base-64"
)
MODELS = (*(f"timm:{name}" for name in _TIMM.split(",")), *_OTHERS.split(","))
_BERT = {"minilm": (384, 6, 12, 1536), "base": (768, 6, 12, 3072)}
"""Width, layers, heads and hidden width of text encoders at the sizes that people use."""
EXACT = "fold-constants,common-subexpressions,canonicalize,fold-batch-norm,absorb-affine,merge-linears,dead-code"
_PRUNED = ("prune{ratio=0.2;criterion=magnitude}", "prune{ratio=0.5;criterion=magnitude}")
_CNN = (EXACT, *_PRUNED, "quantize{noise=1}", "low-rank{ratio=0.5}", "tucker{ratio=0.5}", "separable{ratio=0.5}")
_LIGHT = (EXACT, *_PRUNED, "prune-channels{ratio=0.3;criterion=magnitude}", "quantize{noise=1}", "low-rank{ratio=0.5}")
_TOKENS = (
    EXACT, *_PRUNED, "prune-mlp{ratio=0.5;criterion=magnitude}", "prune-heads{ratio=0.34;criterion=magnitude}",
    "quantize{noise=1}", "quantize-dynamic{noise=1}", "low-rank{ratio=0.5}",
)  # fmt: skip
VERSIONS = {
    "timm:resnet18": _CNN, "timm:resnet50": _CNN, "timm:repvgg_a0": _CNN, "timm:mobilenetv2_100": _LIGHT,
    "timm:efficientnet_lite0": _LIGHT, "timm:regnetx_004": _LIGHT, "timm:convnext_atto": _LIGHT,
    "timm:vit_tiny_patch16_224": _TOKENS, "timm:deit_small_patch16_224": _TOKENS, "timm:mixer_s32_224": _TOKENS[:4],
    "bert:minilm-128": _TOKENS, "zoo:digits-vit": _TOKENS,
}  # fmt: skip
"""The rewrites of some models, one pipeline each; every lossy one follows the exact passes."""


@dataclass(frozen=True)
class Stored:
    """One model in one version: the ONNX file, and the graph that the cost model reads."""

    model: str
    spec: str
    path: Path

    @property
    def onnx(self) -> Path:
        """The file that runtimes load."""
        return self.path.with_suffix(".onnx")

    def graph(self) -> fx.Graph:
        """The graph with shapes, on the meta device."""
        return graph_from(json.loads(self.path.read_text(encoding="utf-8"))["graph"])


def stored() -> list[Stored]:
    """What has been written so far, the models in their order and each before its versions."""
    found = []
    for model in MODELS:
        for spec in ("", *VERSIONS.get(model, ())):
            path = FOLDER / f"{_plain(model, spec)}.json"
            if path.exists() and path.with_suffix(".onnx").exists():
                found.append(Stored(model, spec, path))
    return found


def build(model: str, missing: list[str]) -> None:
    """Capture one model and write its missing versions; what fails says so and costs that version only."""
    program = _captured(model)
    exact = None
    for spec in missing:
        began = time.perf_counter()
        try:
            if spec and exact is None:
                exact = _rewritten(program, EXACT)
            made = program if not spec else (exact if spec == EXACT else _rewritten(exact, spec))
            sites = _write(model, spec, made)
            print(f"{model} {spec or 'as it is'}: {sites} operators, {time.perf_counter() - began:.1f} s", flush=True)
        except Exception as error:  # any pass or exporter may refuse any model
            print(f"{model} {spec}: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)


def _captured(model: str) -> Any:
    from tersor.capture import load
    from tersor.models_zoo.catalog import load as entry_of

    if model.startswith("bert:"):
        network, inputs = _bert(model.removeprefix("bert:"))
    else:
        entry = entry_of(model)
        network, inputs = entry.model, pytree.tree_map(lambda value: value[:1].contiguous(), entry.inputs)
    return load(network, inputs)


def _bert(name: str) -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel

    shape, _, length = name.partition("-")
    width, layers, heads, hidden = _BERT[shape]
    config = BertConfig(
        vocab_size=1000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=hidden, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    tokens = torch.randint(3, 999, (1, int(length)))
    return BertModel(config, add_pooling_layer=False).eval(), {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
    }


def _rewritten(program: Any, spec: str) -> Any:
    from tersor.context import Context
    from tersor.refresh import refresh
    from tersor.spec import parse
    from tersor.target import Target

    made = program.clone()
    context = Context(target=Target("cpu", "cpu", 2), backend="onnxruntime", calibration=(program.inputs,))
    for item in parse(spec):
        item(made, context)
        refresh(made)
    if not context.taken:
        raise ValueError("no pass found anything to do")
    return made


def _write(model: str, spec: str, program: Any) -> int:
    from tersor.export import save_onnx

    path = FOLDER / f"{_plain(model, spec)}.json"
    save_onnx(program, path.with_suffix(".onnx"))
    rows = graph_rows(program.graph)
    path.write_text(json.dumps({"model": model, "spec": spec, "graph": rows}), encoding="utf-8")
    return sum(row[1] == "call_function" for row in rows)


def _plain(model: str, spec: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in f"{model}--{'exact' if spec == EXACT else spec}")


def graph_rows(graph: fx.Graph) -> list[list[Any]]:
    """Name, operation, target, arguments and value of each node, as JSON holds them."""
    return [
        [
            node.name, node.op, _target(node.target), [_argument(item) for item in node.args],
            {key: _argument(item) for key, item in node.kwargs.items()}, _value(node.meta.get("val")),
        ]
        for node in graph.nodes
        if node.op != "output"
    ]  # fmt: skip


def graph_from(rows: list[list[Any]]) -> fx.Graph:
    """The graph that `graph_rows` wrote."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # declares torch.ops.quantized_decomposed

    graph, nodes = fx.Graph(), {}
    for name, op, target, args, kwargs, value in rows:
        given = tuple(_given(item, nodes) for item in args)
        node = graph.create_node(
            op, _operator(target) if op == "call_function" else target, given,
            {key: _given(item, nodes) for key, item in kwargs.items()}, name,
        )  # fmt: skip
        node.meta["val"] = _tensor(value)
        nodes[name] = node
    return graph


def _target(target: Any) -> str:
    return str(target) if isinstance(target, str | torch._ops.OpOverload) else f"operator.{target.__name__}"


def _operator(name: str) -> Any:
    import operator

    space, _, rest = name.partition(".")
    if space == "operator":
        return getattr(operator, rest, operator.getitem)
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, space), packet), overload or "default")


def _argument(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_argument(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else {"other": str(value)}


def _given(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, dict):
        return nodes[value["node"]] if "node" in value else None
    return [_given(item, nodes) for item in value] if isinstance(value, list) else value


def _value(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "stride": list(value.stride()), "dtype": str(value.dtype)[6:]}
    return [_value(item) for item in value] if isinstance(value, list | tuple) else None


def _tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [_tensor(item) for item in value]
    if value is None:
        return None
    return torch.empty_strided(value["shape"], value["stride"], dtype=getattr(torch, value["dtype"]), device="meta")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=float, default=1e9, help="begin no model after so many seconds")
    parser.add_argument("--plain", action="store_true", help="leave out the rewritten versions")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for model in MODELS:
        wanted = ("",) if given.plain else ("", *VERSIONS.get(model, ()))
        missing = [spec for spec in wanted if not (FOLDER / f"{_plain(model, spec)}.json").exists()]
        if given.only not in model or not missing or time.perf_counter() - start > given.limit:
            continue
        try:
            with torch.no_grad():
                build(model, missing)
        except Exception as error:
            print(f"{model}: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
