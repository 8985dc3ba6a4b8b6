"""Paths that tests share: the repository, and the real files that some tests need."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TOKENIZERS = DATA / "tokenizers"
EXPERIMENTS = ROOT / "experiments"


def needs(*paths: pathlib.Path) -> pytest.MarkDecorator:
  """Returns a mark that skips a test if one of the given paths is missing."""
  missing = [str(path) for path in paths if not path.exists()]
  return pytest.mark.skipif(
      bool(missing), reason=f"needs {', '.join(missing)}, which is not there")
