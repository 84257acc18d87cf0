"""The text form holds what a reader of a terminal needs."""

from tersor.report.model import Report
from tests.report.samples import sample


def section(text, title):
    """The lines under a title."""
    return text.split(f"\n{title}\n")[1].split("\n\n")[0]


def test_summary_comes_first():
    first, *rest = sample().text().splitlines()
    assert first.startswith("zoo:digits-cnn on cpu, onnxruntime: 4 operators became 3; 1 pass kept, 1 dropped")
    assert "outputs verified" in first and "1.50 times as fast" in first
    assert rest[1].split() == ["operators", "4", "3"]


def test_dropped_passes_say_why():
    assert "fold-batch-norm dropped: output 'logits' differs by 1" in sample().text()


def test_declined_candidates_are_grouped_and_counted():
    lines = section(sample().text(), "Declined").splitlines()
    assert [line.strip() for line in lines] == [
        "3 x canonicalize: its result is an output",
        "1 x fold-batch-norm: its result is an output",
    ]


def test_parity_and_refused_backends():
    lines = section(sample().text(), "Verified").splitlines()
    assert "3 of 3 size bindings" in lines[0] and "5e-07" in lines[0]
    assert "0 of 1" in lines[1] and "inf" in lines[1]


def test_latency_is_sorted_with_predictions_beside():
    lines = section(sample().text(), "Latency").splitlines()
    assert lines[1].split() == ["onnxruntime", "2", "ms", "1.9", "-", "2.2", "100", "1.50x", "1.5", "ms"]
    assert "eager" in lines[-1]


def test_unverified_result_is_not_called_verified():
    report = sample()
    report.parity[0].passed = False
    assert "verified" not in report.text().splitlines()[0]


def test_a_difference_within_the_spread_is_not_called_a_gain():
    report = sample()
    report.timings[0].high_ms = 3.0
    assert "no measurable change" in report.text().splitlines()[0]
    report.kept = "onnxruntime (original)"
    assert "the original is kept" in report.text().splitlines()[0]


def test_an_empty_report_renders():
    text = str(Report("x.onnx", "", "cpu"))
    assert text.startswith("x.onnx on cpu") and "Latency" not in text
