"""A foreign checkpoint seen under our names and axes, and written back under its own.

A map is lines from our names to its names, with layouts between. Maps of known
architectures ship in this folder, and users can write their own. A map changes no size:
that is what a plan's axis maps are for.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import logging
import os.path
import re
from typing import Any, Protocol

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.maps import layouts
from transfer_gen.transfer import completeness
from transfer_gen.transfer import fold
from transfer_gen.transfer import plan as plan_lib

_Specs = Mapping[str, tree.Spec]
_ELSEWHERE = (
    "A map can be changed: `inspect --map=auto --output=MAP.json` writes it as a file"
    " to edit, and one line of such a file gives leaves other names, as in {\"map\":"
    " \"auto\", \"renamed\": {\"(.*).gamma\": \"\\\\1.weight\"}}.")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
  r"""One line of a map. The first line that matches a leaf owns it.

  Attributes:
    target: Regex for whole names of ours, e.g. `layer_(\d+)/attn/query/kernel`.
    source: Name in the checkpoint, which may use the target's groups, e.g.
      `h.\1.attn.c_attn.weight`; or a tuple of names if the layout takes several.
    layout: How the source becomes the target. By default it is copied.
  """
  target: str
  source: str | tuple[str, ...]
  layout: layouts.Layout = layouts.COPY

  @property
  def sources(self) -> tuple[str, ...]:
    """The names that the line reads, as a tuple."""
    return (self.source,) if isinstance(self.source, str) else tuple(self.source)


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Map:
  """Where the leaves of a model of ours lie in a foreign checkpoint.

  Attributes:
    lines: Lines in order. Each leaf of ours is owned by the first that matches it.
    unused: Regexes for leaves of the checkpoint that our model does not need, such as
      masks that are saved with the weights. Such leaves may be missing.
    copies: Groups of names of one leaf of the checkpoint. It may be stored under any of
      them, and if it is under several, these must be equal.
    stale: Pairs of a leaf that is read and an unused one that the other framework makes
      of it while it runs. Where the two differ, that is logged.
  """
  lines: tuple[Line, ...]
  unused: tuple[str, ...] = ()
  copies: tuple[tuple[str, ...], ...] = ()
  stale: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """Where one leaf of ours lies.

  Attributes:
    name: Name of our leaf.
    spec: Spec of our leaf.
    sources: Names of the checkpoint's leaves that it is made of.
    layout: How they become our leaf.
  """
  name: str
  spec: tree.Spec
  sources: tuple[str, ...]
  layout: layouts.Layout

  def __str__(self) -> str:
    """The step from the checkpoint to the leaf, as audits print it."""
    where = " + ".join(tree.fold(self.sources))
    how = "" if self.layout == layouts.COPY else ", " + layouts.describe(self.layout)
    return where + how


class Raw(Protocol):
  """A checkpoint under its own names; its specs have no axes."""

  @property
  def specs(self) -> _Specs:
    """Spec of each leaf."""
    ...

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields (name, array) for each name, in bounded batches."""


class Mapped:
  """A foreign checkpoint as a source, with our names and axes and its sizes.

  Attributes:
    specs: Spec of each leaf of ours.
    rows: Where each leaf lies, by name.
    raw: The checkpoint.
    how: The checkpoint's map.
    name: Name or path of the map.
  """

  def __init__(
      self, raw: Raw, how: Map, specs: _Specs, name: str = ""):
    """Relates names and checks shapes; reads no array.

    Args:
      raw: The checkpoint.
      how: The checkpoint's map.
      specs: Specs of our model of the checkpoint's sizes.
      name: Name or path of the map.

    Raises:
      errors.UserError: With every misfit, see `resolve`.
    """
    self.raw, self.how, self.specs, self.name = raw, how, dict(specs), name
    self.rows = {row.name: row for row in resolve(how, raw.specs, specs)}

  def read(
      self, names: Sequence[str],
      shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in our dtype, placed where `shardings` says.

    Each leaf of the checkpoint is read once, and is kept while a leaf of ours that
    needs it waits for others. Leaves that share one come after each other, so the order
    may differ from that of `names`.

    Args:
      names: Leaves of `specs`.
      shardings: Sharding of each leaf. If None, all go to the default device.
    """
    waiting = _by_source([self.rows[name] for name in names])
    self._compare_copies(waiting)
    self._tell_stale(waiting)
    held, done = {}, set()
    for source, value in self.raw.read(list(waiting)):
      held[source] = np.asarray(value)
      for row in waiting[source]:
        # A leaf that reads several sources waits under each of them, and is made once.
        if row.name not in done and all(s in held for s in row.sources):
          done.add(row.name)
          yield row.name, _placed(row, held, shardings and shardings[row.name])
      # Freed as soon as possible: all leaves of a large checkpoint do not fit into
      # memory.
      for s in [s for s in held if all(row.name in done for row in waiting[s])]:
        del held[s]


  def _compare_copies(self, names) -> None:
    """Raises if a leaf that is among the names is stored twice, with other numbers."""
    for group in self.how.copies:
      stored = [name for name in group if name in self.raw.specs]
      if len(stored) < 2 or not set(stored) & set(names):
        continue
      arrays = dict(self.raw.read(stored))
      first, *others = stored
      for other in others:
        if not np.array_equal(arrays[first], arrays[other], equal_nan=True):
          raise errors.UserError(
              f"{first} and {other} are one table in the model that the checkpoint's"
              " config describes, and differ. If one of them is not in use, say so:"
              f" --unused='{re.escape(other)}' of `inspect` and `convert`, or"
              " source.unused in a config.")


  def _tell_stale(self, names) -> None:
    """Logs which of two leaves is read, where the other one has other numbers."""
    for pair in self.how.stale:
      if pair[0] in names and pair[1] in self.raw.specs and not np.array_equal(
          *(array for _, array in self.raw.read(pair)), equal_nan=True):
        logging.getLogger(__name__).warning(
            "%s and %s differ: the first is read, the second was made of it.", *pair)


def resolve(how: Map, raw: _Specs, specs: _Specs) -> list[Row]:
  """Decides where each leaf of ours lies in a checkpoint.

  Args:
    how: The checkpoint's map.
    raw: Specs of the checkpoint.
    specs: Specs of our model.

  Returns:
    One row for each leaf, in the order of `specs`.

  Raises:
    errors.UserError: If a leaf has no line, or its line reads a leaf that is missing or
      does not fit; if a line owns no leaf; or if a leaf of the checkpoint is neither
      read nor listed in `unused`. One message lists all of them.
  """
  # Patterns come first and alone: a broken one matches nothing, and each leaf that it
  # was meant for would be one more misfit.
  patterns = [line.target for line in how.lines]
  misfits = [f"{p!r} is no regular expression: {why}." for p, why in _mistyped(
      [*patterns, *how.unused])]
  if misfits:
    raise _error(misfits)
  owners = {name: found for name in specs if (found := tree.match(patterns, name))}
  rows, causes = [], {}
  for name, spec in specs.items():
    try:
      rows.append(_row(how, owners.get(name), raw, name, spec))
    except errors.UserError as error:
      # By message, because one mistake in a line usually hits all layers.
      causes.setdefault(str(error), []).append(name)
  misfits = _folded((", ".join(tree.fold(names)), why) for why, names in causes.items())
  misfits += [
      f"line {i} ({line.target!r}) owns no leaf; "
      + completeness.nearest(line.target, specs)
      for i, line in enumerate(how.lines)
      if i not in {index for index, _ in owners.values()}]
  misfits += _unknown(how, raw, rows, bool(causes))
  if misfits:
    raise _error(misfits, _ELSEWHERE if causes else "")
  return rows


def export(
    rows: Sequence[Row], raw: _Specs, params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Makes the checkpoint's leaves from ours: `resolve` in reverse.

  Args:
    rows: Rows that `resolve` returned.
    raw: Specs of the checkpoint's leaves that the rows read.
    params: Our leaves by name.

  Returns:
    Every leaf of the checkpoint that a row reads, in its dtype.

  Raises:
    errors.UserError: If two leaves of ours disagree on an element, or none holds it.
  """
  by_source = _by_source(rows)
  buffers = {s: np.zeros(raw[s].shape, raw[s].dtype) for s in by_source}
  # Buffers begin as zeros, so only a mask can show which elements nobody has written.
  written = {s: np.zeros(raw[s].shape, bool) for s in by_source}
  for row in rows:
    try:
      layouts.write(row.layout, np.asarray(params[row.name]),
                    [buffers[s] for s in row.sources],
                    [written[s] for s in row.sources])
    except errors.UserError as error:
      others = {r.name for s in row.sources for r in by_source[s]} - {row.name}
      raise errors.UserError(
          f"{row.name} does not go back to {row}: {error} Others that share it:"
          f" {', '.join(tree.fold(sorted(others))) or 'none'}.") from error
  _check_whole(written, by_source)
  return buffers


def _by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups rows by the leaves that they read."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    for source in dict.fromkeys(row.sources):
      found.setdefault(source, []).append(row)
  return found


def _check_whole(
    written: Mapping[str, np.ndarray], by_source: Mapping[str, Sequence[Row]]) -> None:
  missing = [(s, f"{int((~done).sum())} of {done.size} elements have no leaf here; it"
              f" is read by {', '.join(tree.fold(r.name for r in by_source[s]))}.")
             for s, done in written.items() if not done.all()]
  if missing:
    raise errors.UserError("The checkpoint would not be whole:\n  "
                           + "\n  ".join(_folded(missing)))


def _placed(row: Row, held: Mapping[str, np.ndarray], sharding) -> jax.Array:
  value = row.layout(*(held[s] for s in row.sources))
  # Cast after the layout, so that only what this leaf takes is converted, and not a
  # whole fused tensor once for each part.
  value = value.astype(row.spec.dtype, copy=False)
  if sharding is None:
    return jax.device_put(value)
  # Each device receives only the part that its sharding gives it.
  return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])


def _row(
    how: Map, owner: tuple[int, re.Match] | None, raw: _Specs, name: str,
    spec: tree.Spec) -> Row:
  if owner is None:
    raise errors.UserError("no line of the map says where it lies. Add one.")
  index, match = owner
  line = how.lines[index]
  try:
    names = tuple(match.expand(template) for template in line.sources)
  except (re.error, IndexError) as error:
    raise errors.UserError(
        f"line {index}: source {line.source!r} does not go with its target"
        f" {line.target!r}: {error}.") from error
  names = tuple(_stored(how, source, raw) for source in names)
  for template, source in zip(line.sources, names):
    if source not in raw:
      raise errors.UserError(_absent(index, template, source, raw))
  description = f"line {index} from {' and '.join(tree.fold(names))}"
  shape = layouts.shape(line.layout, *(raw[source].shape for source in names))
  if shape != spec.shape:
    raise errors.UserError(
        f"{description} gives {shape}, and the model has ({', '.join(spec.axes)})"
        f" {spec.shape}. Check the model's config, or the layout.")
  for source in names:
    if not _alike(raw[source].dtype, spec.dtype):
      raise errors.UserError(
          f"{description} gives {raw[source].dtype}, and the model has {spec.dtype}.")
  return Row(name=name, spec=spec, sources=names, layout=line.layout)


def _stored(how: Map, source: str, raw: _Specs) -> str:
  """Returns the name under which a leaf is stored, its own if it is under none."""
  group = next((group for group in how.copies if source in group), (source,))
  return source if source in raw else next(filter(raw.__contains__, group), source)


def _absent(index: int, template: str, source: str, raw: _Specs) -> str:
  """Describes a source that is missing: another number, or another name."""
  # Names that fold into one differ in a number alone: the checkpoint has other layers,
  # not other names.
  others = [name for name in raw if len(tree.fold([name, source])) == 1]
  if others:
    return (f"line {index} reads {source}, and the checkpoint has"
            f" {', '.join(tree.fold(others))} alone.")
  return (f"line {index} reads {template}, which is not in the checkpoint;"
          f" {completeness.nearest(template, raw)}")


def _alike(*dtypes: np.dtype) -> bool:
  """Returns whether casts between dtypes keep numbers what they mean."""
  # Floats of any width stand for the same number, more or less exactly. A float cast to
  # an integer would not, and stored integers may be quantised floats.
  return len({jnp.issubdtype(dtype, np.floating) for dtype in dtypes}) == 1


def unread(how: Map, raw: _Specs, rows: Iterable[Row]) -> list[str]:
  """Returns the leaves of a checkpoint that no line reads."""
  read = {source for row in rows for source in row.sources}
  read |= {name for group in how.copies if read & {*group} for name in group}
  return [name for name in raw if name not in read]


def _unknown(how: Map, raw: _Specs, rows: Sequence[Row], misfits: bool) -> list[str]:
  """Reports leaves that a map does not know; empty if a misfit may be the cause."""
  idle = unread(how, raw, rows)
  left = [name for name in idle if tree.match(how.unused, name) is None]
  if not left or misfits:
    return []
  more = f" and {len(folded) - 8} more" if (folded := tree.fold(left))[8:] else ""
  return [f"{len(left)} leaves of the checkpoint are read by no line:"
          f" {', '.join(folded[:8])}{more}. If the model computes the same without"
          f" them: {_flags(left, raw.keys() - idle)} of `inspect` and `convert`,"
          " source.unused in a config, or `unused` in a map file; or add lines there."]


def _flags(names: Sequence[str], others: Collection[str]) -> str:
  """Returns the flags that name leaves and none of the others."""
  both = re.escape(os.path.commonprefix(names)) + ".*"
  if names[1:] and not any(re.fullmatch(both, name) for name in others):
    return f"--unused='{both}'"
  more = " ..." if names[4:] else ""
  return " ".join(f"--unused='{re.escape(name)}'" for name in names[:4]) + more


def _folded(lines: Iterable[tuple[str, str]]) -> list[str]:
  """Sentences on leaves, (names, sentence), folded where they differ in numbers."""
  return [f"{names}: {why}" for _, (names, why) in fold.fold(list(lines), linked=2)]


def _mistyped(patterns: Sequence[str]) -> Iterator[tuple[str, re.error]]:
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      yield pattern, error


def _error(misfits: Sequence[str], more: str = "") -> errors.UserError:
  noun = "misfit" if len(misfits) == 1 else "misfits"
  return errors.UserError("\n  ".join(
      [f"The map does not fit the checkpoint ({len(misfits)} {noun}):", *misfits])
                          + (f"\n{more}" if more else ""))
