"""Paths that tests share: the repository, and the real files that some tests need."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TOKENIZERS = DATA / "tokenizers"
EXPERIMENTS = ROOT / "experiments"


def needs(*paths: pathlib.Path) -> pytest.MarkDecorator:
  """Skips a test where one of these files or folders is missing, and names it."""
  missing = [str(path) for path in paths if not path.exists()]
  return pytest.mark.skipif(
      bool(missing), reason=f"needs {', '.join(missing)}, which is not there")
