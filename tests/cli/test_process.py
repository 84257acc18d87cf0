"""The command as its own process: start-up, signals, pipes, completion."""

import os
import signal
import subprocess
import sys
import time

COMMAND = [sys.executable, "-m", "tersor"]


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_version():
    import tersor

    done = run("--version")
    assert done.returncode == 0 and done.stdout.strip() == f"tersor {tersor.__version__}"


def test_help_starts_fast_and_without_torch():
    code = (
        "import sys, tersor.cli\n"
        "code = tersor.cli.main(['--help'])\n"
        "assert code == 0 and 'torch' not in sys.modules and 'onnx' not in sys.modules, list(sys.modules)"
    )
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
        taken.append(time.perf_counter() - start)
    # On an idle machine it is 0.3 s; the rest is room for a busy one.
    assert min(taken) < 1.0


def _interruptible() -> None:
    """What runs in the background of a script is started with Ctrl-C ignored, and hands that on to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_the_middle_leaves_no_file(tiny, tmp_path):
    flags = ["--backend", "onnxruntime", "--seconds", "60", "--passes", "canonicalize"]
    command = [*COMMAND, "optimize", str(tiny), "-o", str(tmp_path / "out.onnx"), *flags]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=_interruptible
    )
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if "measure" in line:
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and out == ""
    assert err.splitlines()[-1].startswith("error: interrupted")
    assert list(tmp_path.iterdir()) == [tiny]


def test_a_reader_that_leaves_is_no_error():
    line = f"{sys.executable} -m tersor targets | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr and done.stderr == ""


def test_shell_completion():
    words = {"_TERSOR_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "tersor in"}
    assert run(**words).stdout.split() == ["inspect"]


def test_no_colour_where_it_is_not_wanted():
    done = run("optimize", "zoo:digits-cnn", "--tagret", NO_COLOR="1")
    assert done.returncode == 2 and "\x1b" not in done.stderr
