"""What a choice of a source leaves in its workdir, and from what it goes on."""

from collections.abc import Mapping
import contextlib
import json
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.config import codec
from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.transfer import plan as plan_lib

FILE, CHOSEN, RUNS = "choose.json", "chosen.py", "runs"
_INSTEAD = "Restore it from a copy, or take another --workdir to measure anew."


def asked(
    contenders: Mapping[str, assembled_lib.Assembled], steps: int) -> dict[str, Any]:
  """Returns what the evidence of a choice depends on, as JSON types.

  Args:
    contenders: The runs by name, assembled.
    steps: Number of steps that each trains.
  """
  found = {"steps": steps, "runs": {name: {
      "config": codec.run_to_json(one.run),
      "plan": plan_lib.fingerprint(one.plan),
      "texts": one.data.facts["fingerprint"],
      "sources": {key: _version(source) for key, source in one.sources.items()},
  } for name, one in contenders.items()}}
  return whole.parse_json(json.dumps(found))  # JSON has no tuples.


def read(workdir: epath.Path) -> dict[str, Any]:
  """Returns what a choice in a workdir has found so far; empty if none has begun.

  Raises:
    errors.UserError: If the workdir holds something else, or choose.json is damaged.
  """
  path = workdir / FILE
  if path.exists():
    return whole.read_json(path, _parsed, _INSTEAD)
  # A lock, or a part of choose.json, may be left by a process that was killed.
  others = sorted(one.name for one in workdir.iterdir()
                  if not one.name.startswith(FILE)) if workdir.is_dir() else []
  if others:
    raise errors.UserError(
        f"{workdir} is not empty and has no {FILE}: it holds {', '.join(others[:3])}"
        f"{' and more' if others[3:] else ''}, which belong to something else. Take"
        " another --workdir.")
  return {}


def begin(workdir: epath.Path, mine: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a choice has found so far, and writes that it has begun if it has not.

  Args:
    workdir: Its workdir, which is held by `alone`.
    mine: What `asked` returned.

  Raises:
    errors.UserError: As `read`; or if another choice has begun there, with what
      differs.
  """
  found = read(workdir)
  if not found:
    found = {"asked": mine, "evidence": {}}
    write(workdir, found)
  lines = list(_differences(found["asked"], mine))
  if lines:
    raise errors.UserError("\n  ".join([
        f"{workdir} belongs to another choice:", *lines[:20],
        *([f"and {len(lines) - 20} more"] if lines[20:] else [])])
        + "\nTake another --workdir, or what it began with.")
  return found


def alone(workdir: epath.Path) -> contextlib.AbstractContextManager[None]:
  """Lets no other process write choose.json while the body runs; makes the folder."""
  return whole.alone(workdir / FILE)


def write(workdir: epath.Path, facts: Mapping[str, Any]) -> None:
  """Writes choose.json."""
  whole.write_json(workdir / FILE, facts)


def _parsed(data: Any) -> dict[str, Any]:
  """Checks what is read of the evidence; another error than ours says it is damaged."""
  for name, one in data["evidence"].items():
    data["asked"]["runs"][name]
    numbers = [one["overlap"], one["alignment"], one["logme"], one["copied"]]
    numbers += [one[when]["across_tokens"] for when in (
        ("before", "after") if data["asked"]["steps"] else ("before",))]
    if not all(isinstance(value, (int, float, type(None))) for value in numbers):
      raise TypeError(f"{name} has a value that is no number")
    "".join((one["unit"], one["path"], *one["absent"].values()))
    one["before"]["documents"], one["is_scratch"]
  return data


def _version(source):
  """What differs once the files of a source were written anew."""
  if source.path is None:
    return []
  if isinstance(source, sources_lib.Pair):
    return [_version(side) if side else None
            for side in (source.encoder, source.decoder)]
  stats = [one.stat() for one in _files(epath.Path(source.path))]
  return [source.title, sum(stat.length for stat in stats),
          max((int(stat.mtime) for stat in stats), default=0)]


def _files(path):
  """All files at a path or below it."""
  if not path.is_dir():
    return [path] if path.exists() else []
  return [file for inner in sorted(path.iterdir()) for file in _files(inner)]


def _differences(theirs, mine, name=""):
  if isinstance(theirs, dict) and isinstance(mine, dict):
    for key in sorted(theirs.keys() | mine.keys()):
      inner = f"{name}.{key}".lstrip(".")
      if key in theirs and key in mine:
        yield from _differences(theirs[key], mine[key], inner)
      else:
        yield f"{inner}: only {'there' if key in theirs else 'here'}"
  elif theirs != mine:
    yield f"{name}: {theirs} there, {mine} here"
