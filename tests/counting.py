"""Counts the calls of functions without replacing what they do."""

import collections
from collections.abc import Iterator
import contextlib
import functools
from types import ModuleType

import pytest


@contextlib.contextmanager
def calls(*places: tuple[ModuleType, str]) -> Iterator[collections.Counter[str]]:
  """Yields a counter of the calls of each (module, function name)."""
  found: collections.Counter[str] = collections.Counter()

  def counted(function, name):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
      found[name] += 1
      return function(*args, **kwargs)
    return wrapper

  with pytest.MonkeyPatch.context() as patch:
    for module, name in places:
      patch.setattr(module, name, counted(getattr(module, name), name))
    yield found
