"""Sentences on how a map and a checkpoint do not fit each other."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import os.path
import re
from typing import Any

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import completeness
from transfer_gen.transfer import fold

_ELSEWHERE = (
    "A map can be changed: `inspect --map=auto --output=MAP.json` writes it as a file"
    " to edit, and one line of such a file gives leaves other names, as in {\"map\":"
    " \"auto\", \"renamed\": {\"(.*).gamma\": \"\\\\1.weight\"}}.")


def error(misfits: Sequence[str], elsewhere: bool = False) -> errors.UserError:
  """Returns one error for all misfits.

  Args:
    misfits: A sentence each.
    elsewhere: Whether other names would help, so that the message says how to give
      them.
  """
  noun = "misfit" if len(misfits) == 1 else "misfits"
  return errors.UserError("\n  ".join(
      [f"The map does not fit the checkpoint ({len(misfits)} {noun}):", *misfits])
                          + (f"\n{_ELSEWHERE}" if elsewhere else ""))


def mistyped(patterns: Sequence[str]) -> list[str]:
  """Returns a sentence for each pattern that is no regular expression."""
  return [f"{p!r} is no regular expression: {why}." for p, why in _broken(patterns)]


def idle(index: int, target: str, specs: Mapping[str, Any]) -> str:
  """Returns the sentence on a line that owns no leaf."""
  return (f"line {index} ({target!r}) owns no leaf; "
          + completeness.nearest(target, specs))


def absent(index: int, template: str, source: str, raw: Mapping[str, Any]) -> str:
  """Describes a source that is missing: another number, or another name."""
  # Names that fold into one differ in a number alone: the checkpoint has other layers,
  # not other names.
  others = [name for name in raw if len(tree.fold([name, source])) == 1]
  if others:
    return (f"line {index} reads {source}, and the checkpoint has"
            f" {', '.join(tree.fold(others))} alone.")
  return (f"line {index} reads {template}, which is not in the checkpoint;"
          f" {completeness.nearest(template, raw)}")


def unread(left: Sequence[str], read: Collection[str]) -> str:
  """Returns the sentence on leaves that no line reads; `read` are the others."""
  names = tree.fold(left)
  more = f" and {len(names) - 8} more" if names[8:] else ""
  return (f"{len(left)} leaves of the checkpoint are read by no line:"
          f" {', '.join(names[:8])}{more}. If the model computes the same without"
          f" them, say so: {_flags(left, read)} of `inspect` and `convert`,"
          " source.unused in a config, or `unused` in a map file; else add lines to a"
          " map file.")


def folded(lines: Iterable[tuple[str, str]]) -> list[str]:
  """Sentences on leaves, (names, sentence), folded where they differ in numbers."""
  return [f"{names}: {why}" for _, (names, why) in fold.fold(list(lines), linked=2)]


def _flags(names: Sequence[str], others: Collection[str]) -> str:
  """Returns the flags that name leaves and none of the others."""
  both = re.escape(os.path.commonprefix(names)) + ".*"
  if names[1:] and not any(re.fullmatch(both, name) for name in others):
    return f"--unused='{both}'"
  more = " ..." if names[4:] else ""
  return " ".join(f"--unused='{re.escape(name)}'" for name in names[:4]) + more


def _broken(patterns: Sequence[str]) -> Iterator[tuple[str, re.error]]:
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      yield pattern, error
