r"""A checkpoint of another framework as its user corrects it, before any map reads it.

What is said to be unused is left out first, so that everything after it sees a file
that never had it: also what decides by a leaf whether a model has a bias or tied
tables.
"""

from collections.abc import Iterable, Mapping, Sequence
import difflib
import logging
import re

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.formats import raw as raw_lib

Raw = raw_lib.Raw


def without(raw: Raw, unused: Sequence[str]) -> Raw:
  r"""Returns a checkpoint without some of its leaves.

  Args:
    raw: The checkpoint.
    unused: Regexes for whole names of the leaves.

  Raises:
    errors.UserError: If one is no regex or matches no leaf.
  """
  if not unused:
    return raw
  _check(raw, unused, "unused")
  left = [name for name in raw.leaves if tree.match(unused, name)]
  # A line in the log, since what is left out by mistake shows nowhere else.
  logging.getLogger(__name__).warning(
      "%s: left out, as asked: %s", raw.path, ", ".join(tree.fold(left)))
  return raw.having({n: leaf for n, leaf in raw.leaves.items() if n not in left})


def renamed(raw: Raw, names: Mapping[str, str]) -> Raw:
  r"""Returns a checkpoint with other names for some of its leaves.

  Args:
    raw: The checkpoint.
    names: By a regex for whole names: the new name, which may use groups of the regex.
      The first that matches a leaf counts.

  Raises:
    errors.UserError: If one is no regex, matches no leaf or lacks a group that its new
      name uses; or if two leaves would have one name.

  Example:
    >>> import tempfile
    >>> from etils import epath
    >>> import numpy as np
    >>> from transfer_gen.formats import detect
    >>> path = epath.Path(tempfile.mkdtemp()) / "model.npz"
    >>> np.savez(path, **{"norm.gamma": np.zeros(2), "score.bias": np.zeros(3)})
    >>> raw = without(detect.opener_of(path)(), [r"score\..*"])
    >>> list(renamed(raw, {r"(.*)\.gamma": r"\1.weight"}).specs)
    ['norm.weight']
  """
  if not names:
    return raw
  patterns = list(names)
  _check(raw, patterns, "renamed")
  new = {name: _new_name(name, patterns, names) for name in raw.leaves}
  before: dict[str, str] = {}
  for old, name in new.items():
    if name in before:
      raise errors.UserError(
          f"renamed: {before[name]} and {old} would both be {name}. Narrow a pattern,"
          " or leave one of them out with --unused.")
    before[name] = old
  return raw.having({name: raw.leaves[old] for name, old in before.items()})


def check_idle(raw: Raw) -> None:
  """Checks that each field that is said to be idle was met and passed over.

  Raises:
    errors.UserError: If there are others. They would be taken as said and ignored.
  """
  if left := [name for name, met in raw.idle.items() if not met]:
    raise errors.UserError(
        f"source.idle_fields (--idle_field): {', '.join(left)}: no field that is set in"
        f" the config of {raw.path} and that its map does not know. A field that the"
        " map knows is read. Remove the name.")


def _new_name(name: str, patterns: Sequence[str], names: Mapping[str, str]) -> str:
  found = tree.match(patterns, name)
  if found is None:
    return name
  index, match = found
  try:
    return match.expand(names[patterns[index]])
  except (re.error, IndexError) as error:
    raise errors.UserError(
        f"renamed: {names[patterns[index]]!r} does not go with its pattern"
        f" {patterns[index]!r}: {error}.") from error


def _check(raw: Raw, patterns: Iterable[str], field: str) -> None:
  """Raises if a pattern is broken, or matches no leaf and so would be ignored."""
  for pattern in patterns:
    try:
      met = any(re.fullmatch(pattern, name) for name in raw.leaves)
    except re.error as error:
      raise errors.UserError(
          f"{field}: {pattern!r} is no regular expression: {error}.") from error
    if not met:
      near = difflib.get_close_matches(
          re.sub(r"\\(.)", r"\1", pattern), raw.leaves, n=2, cutoff=0.3)
      raise errors.UserError(
          f"{field}: {pattern!r} matches no leaf of {raw.path}, whose whole name it"
          f" must match. Nearest: {', '.join(near) or 'none'}.")
