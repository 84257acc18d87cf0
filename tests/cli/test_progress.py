"""Progress on a terminal, in a log, and nowhere."""

import io

from tersor.progress import Console, Silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(progress):
    with progress:
        progress.stage("capture")
        progress.stage("passes", 2)
        progress.advance(1, "fold-batch-norm")
        progress.advance(1, "dead-code")
        progress.message("two [passes] were kept")
        progress.stage("measure")


def test_a_log_gets_plain_lines():
    stream = io.StringIO()
    work(Console(stream))
    assert stream.getvalue() == "capture ...\npasses (2 steps) ...\ntwo [passes] were kept\nmeasure ...\n"


def test_a_terminal_gets_bars_with_times():
    stream = Terminal()
    work(Console(stream))
    text = stream.getvalue()
    assert "capture" in text and "passes" in text and "0:00:00" in text
    assert "two [passes] were kept" in text


def test_no_colour_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    work(Console(stream))
    assert "\x1b[3" not in stream.getvalue()


def test_a_failure_gives_the_terminal_back():
    stream = Terminal()
    try:
        with Console(stream) as progress:
            progress.stage("capture")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    # The cursor, hidden while a bar runs, is shown again.
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l")


def test_stages_may_follow_a_close():
    stream = Terminal()
    progress = Console(stream)
    work(progress)
    work(progress)
    assert stream.getvalue().count("measure") >= 2


def test_silent_says_nothing(capsys):
    work(Silent())
    assert capsys.readouterr() == ("", "")
