"""What quantized models are judged on: real and trained models, calibration data for all tools, and scores.

A run is a function from the model's inputs in order, as arrays, to its outputs. Calibration never sees what is judged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import export
from benchmarks.real_cases import views

Run: TypeAlias = Callable[..., list[np.ndarray]]
Scores: TypeAlias = dict[str, float]

FINE = {"KL", "1 - cosine", "perplexity", "frames changed"}
"""Scores of which less is better; they tell contestants apart where the first, of which more is better, cannot."""


@dataclass(frozen=True)
class Task:
    """One model.

    Attributes:
        model: what users hold: a module, or the path of an ONNX file.
        file: as ONNX, in floating point.
        inputs, dynamic: as `tersor.optimize` takes them; None for files.
        calibration: unlabelled inputs, each a tuple or dict of tensors.
        judge: the scores of a run, first the one that the goals are about.
        transformer: what NNCF wants to be told.
    """

    model: Any
    file: Path
    inputs: Any
    dynamic: Any
    calibration: list[Any]
    judge: Callable[[Run], Scores]
    transformer: bool = False


def arrays(batch: Any) -> list[np.ndarray]:
    """A batch of calibration data as what a run takes."""
    return [value.numpy() for value in (batch.values() if isinstance(batch, dict) else batch)]


def onnxruntime_run(path: Path, threads: int = 1) -> Run:
    """The file in ONNX Runtime; with 0 threads it chooses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Without this, activations of layers with four-bit weights are rounded to eight bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return lambda *given: session.run(None, dict(zip(names, given, strict=True)))


def openvino_run(path: Path, threads: int = 1) -> Run:
    """The file, ONNX or OpenVINO's own, in OpenVINO; with 0 threads it chooses."""
    import openvino as ov

    core = ov.Core()
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    config |= {"INFERENCE_NUM_THREADS": str(threads)} if threads else {}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", config)
    request = compiled.create_infer_request()

    def run(*given: np.ndarray) -> list[np.ndarray]:
        made = request.infer(list(given))
        return [np.array(made[place]) for place in compiled.outputs]

    return run


def divergence(wanted: Tensor, got: Tensor) -> float:
    """Kullback-Leibler divergence of what logits [..., classes] predict, mean over all but the last dimension."""
    first, second = (item.double().flatten(0, -2).log_softmax(-1) for item in (wanted, got))
    return float((first.exp() * (first - second)).sum(-1).mean())


def photographs(folder: Path) -> Task:
    """EfficientNet-Lite0: classes and probabilities of 300 views of ten photographs; calibration sees ten others."""
    from tests.real import lite0

    model, (images, _) = lite0.load(), lite0.photographs()
    held = views(images[1::2], 30, seed=1).split(20)
    dynamic = ({0: torch.export.Dim("batch")},)
    file = exported(model, (images[:2],), dynamic, folder)
    wanted = _outputs(onnxruntime_run(file), ((part,) for part in held))

    def judge(run: Run) -> Scores:
        got = _outputs(run, ((part,) for part in held))
        same = (got.argmax(1) == wanted.argmax(1)).double().mean()
        return {"same class": float(same), "KL": divergence(wanted, got)}

    fitted = [(part,) for part in views(images[::2], 26, seed=0).split(10)]
    return Task(model, file, (images[:2],), dynamic, fitted, judge)


def exported(model: nn.Module, inputs: Any, dynamic: Any, folder: Path) -> Path:
    """The model as torch.onnx.export writes it."""
    path = folder / "float.onnx"
    export(model, inputs, path, dynamic)
    return path


def _outputs(run: Run, held: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """First outputs, one below the other."""
    return torch.cat([torch.from_numpy(run(*arrays(part))[0]) for part in held])


def sentences(folder: Path) -> Task:
    """MiniLM: nearest neighbours and embeddings of 600 sentences; calibration sees 208 others."""
    from tests.real import minilm, text

    model, encode = minilm.load()
    every = text.many_sentences()
    held, fitted = every[:600], every[600:809]
    inputs = encode(fitted[:8])
    file = exported(model, inputs, minilm.dynamic(), folder)

    def embeddings(run: Run) -> Tensor:
        return minilm.embeddings(lambda given: torch.from_numpy(run(*arrays(given))[0]), encode, held)

    def order(vectors: Tensor) -> Tensor:
        return (vectors @ vectors.T - 2 * torch.eye(len(vectors))).argmax(1)

    wanted = embeddings(onnxruntime_run(file))

    def judge(run: Run) -> Scores:
        got = embeddings(run)
        same = (order(got) == order(wanted)).double().mean()
        return {"same neighbour": float(same), "1 - cosine": float(1 - (got * wanted).sum(1).double().mean())}

    batches = [encode(part) for part in minilm.batches(fitted)][:-1]
    return Task(model, file, inputs, minilm.dynamic(), batches, judge, transformer=True)


def recognition(folder: Path) -> Task:
    """PP-OCRv4 recognition: characters of 200 lines read rightly from what the pipeline cuts out of pages."""
    from tests.real import ocr, text

    lines = text.phrases(328)
    reader, held, fitted = _reader(), _seen(lines[:200], "rec"), _seen(lines[200:], "rec")
    file = ocr.file("rec")
    wanted = [made.argmax(-1) for (made,) in map(onnxruntime_run(file), held)]

    def judge(run: Run) -> Scores:
        got, changed = [], []
        for given, right in zip(held, wanted, strict=True):
            made = run(given)[0]
            got += [line[0] for line in reader.text_rec.postprocess_op(made)]
            changed.append(float((made.argmax(-1) != right).mean()))
        return {"characters": ocr.likeness(lines[:200], got), "frames changed": float(np.mean(changed))}

    return Task(str(file), file, None, None, [{"x": torch.from_numpy(item)} for item in fitted], judge)


def detection(folder: Path) -> Task:
    """PP-OCRv4 detection: characters of 200 lines on pages that the whole pipeline reads rightly with it."""
    from tests.real import ocr, text

    lines = text.phrases(296)
    reader, file, pages = _reader(), ocr.file("det"), ocr.pages(lines[:200])

    def judge(run: Run) -> Scores:
        reader.text_det.infer = run
        found = [line[1] for page in pages for line in reader(page)[0] or []]
        return {"characters": ocr.likeness(lines[:200], found)}

    fitted = [{"x": torch.from_numpy(item)} for item in _seen(lines[200:], "det")]
    return Task(str(file), file, None, None, fitted, judge)


def _reader() -> Any:
    from rapidocr_onnxruntime import RapidOCR

    return RapidOCR(intra_op_num_threads=1)


def _seen(lines: list[str], part: str) -> list[np.ndarray]:
    """What a part of the pipeline is given when pages with these lines are read."""
    from tests.real import ocr

    reader, seen = _reader(), []
    room, name = (reader.text_det, "infer") if part == "det" else (reader.text_rec, "session")
    inner = getattr(room, name)

    def spy(given: np.ndarray) -> Any:
        seen.append(given)
        return inner(given)

    setattr(room, name, _Spy(inner, spy))
    for page in ocr.pages(lines):
        reader(page)
    return seen


@dataclass(frozen=True)
class _Spy:
    inner: Any
    call: Callable[[np.ndarray], Any]

    def __call__(self, given: np.ndarray) -> Any:
        return self.call(given)


def trained(name: str, folder: Path, change: Callable[[nn.Module], None] = lambda model: None) -> Task:
    """A trained model of the zoo: accuracy on its test data, and the divergence from what it predicts in float."""
    from tersor.models_zoo import data, evaluate
    from tersor.models_zoo.catalog import load

    entry = load(name)
    change(entry.model)
    assert isinstance(entry.calibration, evaluate.Calibration)
    batches = list(replace(entry.calibration, count=8))
    file = exported(entry.model, entry.inputs, entry.dynamic, folder)
    test = data.load(entry.calibration.data).test
    held = list(zip(*(part.split(100) for part in test.inputs), strict=True))
    wanted = _outputs(onnxruntime_run(file), held)

    def judge(run: Run) -> Scores:
        got = _outputs(run, held)
        scores = {"accuracy": float((got.argmax(-1) == test.labels).double().mean())}
        if test.labels.dim() > 1:
            lost = nn.functional.cross_entropy(got.double().flatten(0, -2), test.labels.flatten())
            scores["perplexity"] = float(lost.exp())
        return scores | {"KL": divergence(wanted, got)}

    return Task(entry.model, file, entry.inputs, entry.dynamic, batches, judge, "mobile" not in name)


def uneven(model: nn.Module, spread: float = 3000.0) -> None:
    """Scale channels between the bottlenecks of a MobileNet by factors from 1 to ``spread``; its function stays.

    That is what makes MobileNets collapse when one range serves all channels (Nagel et al., arXiv:1906.04721).
    """
    whole: Any = model
    blocks, draws = list(whole.blocks), torch.Generator().manual_seed(0)
    starts = [place for place, block in enumerate(blocks) if not block.residual]
    for start, stop in zip(starts, [*starts[1:], len(blocks)], strict=True):
        writers = [block.project[1] for block in blocks[start:stop]]
        readers = [block.expand[0] for block in blocks[start + 1 : stop + 1]] + (
            [whole.last[0]] * (stop == len(blocks))
        )
        factors = spread ** torch.rand(len(writers[0].weight), generator=draws)
        with torch.no_grad():
            for norm in writers:
                norm.weight.mul_(factors)
                norm.bias.mul_(factors)
            for layer in readers:
                layer.weight.div_(factors[None, :, None, None])


WEIGHTS = ("zoo:tiny-lm", "MiniLM")
"""Models with many weights for each multiplication, in which four bits are tried too."""

ZOO = ("digits-cnn", "digits-mobile", "digits-vit", "mnist-cnn", "text-encoder", "tiny-lm")
TASKS: dict[str, Callable[[Path], Task]] = {
    **{f"zoo:{name}": functools.partial(trained, f"zoo:{name}") for name in ZOO},
    "digits-mobile, uneven channels": functools.partial(trained, "zoo:digits-mobile", change=uneven),
    "EfficientNet-Lite0": photographs,
    "MiniLM": sentences,
    "PP-OCRv4 recognition": recognition,
    "PP-OCRv4 detection": detection,
}
