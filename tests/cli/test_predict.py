"""``tersor predict`` and the data sheets of ``tersor targets`` as a user calls them."""

import json

import pytest


def test_predict_table_and_json(tersor):
    code, out, _ = tersor("predict", "zoo:digits-cnn", "--target", "h100", "--batch", "1,64", "--dtype", "fp16,int8",
                          "--json")  # fmt: skip
    rows = json.loads(out)["predictions"]
    assert code == 0 and [(row["batch"], row["precision"]) for row in rows] == [
        (1, "float16"), (64, "float16"), (1, "int8"), (64, "int8"),
    ]  # fmt: skip
    assert all(row["bound"] <= row["low"] <= row["seconds"] <= row["high"] for row in rows)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "h10"), "h100"),
        (("--target", "cuda"), "tersor targets"),
        (("--target", "h100", "--batch", "0"), "--batch"),
        (("--target", "h100", "--dtype", "fp12"), "float16"),
        (("--target", "h100", "--backend", "inducter"), "inductor"),
    ],
)
def test_bad_input_says_what_to_do(tersor, options, told):
    code, _, error = tersor("predict", "zoo:digits-cnn", *options)
    assert code == 2 and told in error


def test_one_sheet(tersor):
    code, out, _ = tersor("targets", "rtx4090")
    assert code == 0 and "1008 GB/s" in out and "white paper" in out
    assert json.loads(tersor("targets", "h100", "--json")[1])["targets"][0]["rates"]["float32"] == pytest.approx(
        66.9e12
    )
