"""A fixture for tests of the command line: a folder with a text and a config."""

import pytest

from tests.commands import cli


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
  """Makes a folder with `text.txt` and `config.py`, and changes into it."""
  monkeypatch.chdir(tmp_path)
  lines = [f"the {i}th line counts {i * 7 % 13} things" for i in range(200)]
  (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
  (tmp_path / "config.py").write_text(cli.CONFIG)
  return tmp_path
