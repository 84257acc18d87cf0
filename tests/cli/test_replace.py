"""A folder is replaced whole or not at all, and only one that Tersor wrote."""

import pytest

from tersor.cli.replace import replacing
from tersor.errors import OutputError


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "report.json").write_text("old")
    return folder


def test_replaced(old, tmp_path):
    with replacing(old, force=True) as made:
        made.mkdir()
        (made / "report.json").write_text("new")
        assert (old / "report.json").read_text() == "old"
    assert (old / "report.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_kept_where_the_work_fails(old, tmp_path, error):
    with pytest.raises(error), replacing(old, force=True) as made:
        made.mkdir()
        raise error
    assert (old / "report.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_other_folders_are_spared(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("precious")
    with pytest.raises(OutputError, match="did not write"), replacing(home, force=True):
        pass
    assert (home / "letter.txt").read_text() == "precious"


def test_without_force_it_is_the_folder_itself(old):
    with replacing(old, force=False) as made:
        assert made == old
