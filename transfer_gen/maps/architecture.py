"""Architectures of other frameworks, as models of ours: one file each, rules only.

A map is what a file of this folder calls `MAP`; `maps.shipped` lists them. It says

- by which names or facts a checkpoint of its kind is known;
- which model of ours computes the same, from the checkpoint's own config. What that
  config asks for and no model of ours has is an error that names its field: a map
  lists the values that it knows, so a field that nobody has thought of is one too;
- where each leaf of that model lies, as lines with layouts (`sources.mapped`), which
  move bits and never compute. What the other framework computes on its weights while
  it runs is a field of our model;
- how a tokenizer of ours reads what lies beside the checkpoint.

A new architecture is one file here and one line in `maps.shipped`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import raw as raw_lib
from transfer_gen.maps import mapped

# What a map is written with, so that its file needs no other import for it.
Line, Map, Mapped = mapped.Line, mapped.Map, mapped.Mapped
unread = mapped.unread
Extent, Raw = raw_lib.Extent, raw_lib.Raw
read_json, malformed = raw_lib.read_json, raw_lib.malformed
read_bytes, parse_json = untrusted.read, untrusted.parse_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """One architecture of another framework.

  Attributes:
    name: Name of the map, the value of `Source.map`.
    what: Which checkpoints the map reads, in one line for messages.
    recognizes: Returns whether a checkpoint is of this architecture, by its names, its
      facts and the files beside it.
    model: Returns the config of our model for a checkpoint. Raises `UserError` with the
      name of a field that no model of ours has.
    lines: Takes a checkpoint and that model, and returns where its leaves lie.
    tokenizer: Takes a checkpoint, that model and whether to repair; returns the
      tokenizer and a sentence for each repair, or None if no file of one lies beside
      the checkpoint. Raises `UserError` with every damaged entry if it may not repair
      them. By default there is no tokenizer.
  """
  name: str
  what: str
  recognizes: Callable[[raw_lib.Raw], bool]
  model: Callable[[raw_lib.Raw], Any]
  lines: Callable[[raw_lib.Raw, Any], mapped.Map]
  tokenizer: Callable[
      [raw_lib.Raw, Any, bool], tuple[Any, tuple[str, ...]] | None] = (
          lambda raw, model, repair: None)


def beside(raw: raw_lib.Raw, name: str) -> epath.Path | None:
  """Returns the file of a name beside a checkpoint, or None.

  Raises:
    errors.UserError: If it is a link that leads out of the folder.
  """
  # A checkpoint is a file with others around it, or the folder that holds them all.
  folder = raw.path if raw.path.is_dir() else raw.path.parent
  return untrusted.inside(folder / name) if (folder / name).is_file() else None


def require(
    where: str, fields: Mapping[str, Any], wanted: Mapping[str, Collection[Any]]
) -> None:
  """Checks fields of a config against the values that a map knows.

  Args:
    where: What the config belongs to, for messages.
    fields: The config.
    wanted: Known values by field. Fields that the config lacks are not checked.

  Raises:
    errors.UserError: If fields have other values; the message lists them.
  """
  wrong = [f"{name} is {fields[name]!r}, and only"
           f" {' or '.join(map(repr, values))} is known here"
           for name, values in wanted.items()
           if name in fields and fields[name] not in values]
  if wrong:
    raise errors.UserError(f"{where}: {'; '.join(wrong)}.")


def refuse_unknown(
    where: str, fields: Mapping[str, Any], known: Collection[str],
    idle: dict[str, bool] | None = None) -> None:
  """Checks that a config holds no field that a map does not know.

  A field that is None, False, empty or zero asks for nothing.

  Args:
    where: What the config belongs to, for messages.
    fields: The config.
    known: Names of the fields that the map knows.
    idle: `Raw.idle`: fields that the user says change nothing. Those that are in the
      config are marked as met. By default there are none.

  Raises:
    errors.UserError: If there are others; the message lists them.
  """
  unknown = {name: value for name, value in fields.items()
             if name not in known and value}
  for name in unknown.keys() & (idle or {}).keys():
    assert idle is not None  # It has a name.
    idle[name] = True
  left = [name for name in unknown if name not in (idle or {})]
  if left:
    listed = ", ".join(f"{name}={unknown[name]!r}" for name in left)
    raise errors.UserError(
        f"{where}: {listed[:300]}: no model here has such a field. {as_idle(left)}")


def as_idle(names: Sequence[str]) -> str:
  """Returns the sentence that says how to pass over fields of a config."""
  flags = " ".join(f"--idle_field={name}" for name in names)
  listed = ", ".join(f"{name!r}" for name in names)
  return (f"If it changes nothing that the model computes, say so: {flags[:300]} of"
          f" `inspect` and `convert`, or in a config source.idle_fields=({listed[:300]}"
          ",).")


@contextlib.contextmanager
def understood(raw: raw_lib.Raw, what: str) -> Iterator[None]:
  """Turns what a map raises on a malformed config into one message with the path.

  A config is input from outside: whatever a map stumbles over in it is the fault of the
  checkpoint, not of this package.

  Args:
    raw: The checkpoint.
    what: What is being read, for the message.

  Raises:
    errors.UserError: If the body raises an error of arithmetic, look-up or type.
  """
  try:
    yield
  except errors.UserError:
    raise
  # No OSError: a disk that fails is not the checkpoint's fault.
  except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
          ValueError) as error:
    raise errors.UserError(
        f"{raw.path}: what lies there does not make sense ({what}):"
        f" {errors.cause(error)}.") from error
