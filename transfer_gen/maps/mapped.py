"""A foreign checkpoint seen under our names and axes, and written back under its own.

A map is lines from our names to its names, with layouts between. Maps of known
architectures ship in this folder, and users can write their own. A map changes no size:
that is what a plan's axis maps are for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any, Protocol

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.maps import layouts
from transfer_gen.maps import misfits
from transfer_gen.maps import part_reader
from transfer_gen.transfer import plan as plan_lib

_Specs = Mapping[str, tree.Spec]
Pick, Entries = part_reader.Pick, part_reader.Entries
place_whole = part_reader.place_whole


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

  def read(
      self, names: Sequence[str], entries: Mapping[str, Entries] | None = None
  ) -> Iterator[tuple[str, Any]]:
    """Yields (name, array) for each name, of some entries alone if they are given."""


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
      picks: Mapping[str, Pick] | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in our dtype, placed where `shardings` says.

    Each leaf of the checkpoint is read once, and of it what the devices of this process
    need. It is kept while a leaf of ours that needs it waits for others. Leaves that
    share one come after each other, so the order may differ from that of `names`.

    Args:
      names: Leaves of `specs`.
      shardings: Sharding of each leaf. If None, all go to the default device.
      picks: What is taken of a leaf before it is placed; by default all of it.
    """
    return part_reader.read(
        self.raw, [self.rows[name] for name in names], self.how.copies, self.how.stale,
        shardings or {}, picks or {})


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
  if broken := misfits.mistyped([*patterns, *how.unused]):
    raise misfits.error(broken)
  owners = {name: found for name in specs if (found := tree.match(patterns, name))}
  rows, causes = [], {}
  for name, spec in specs.items():
    try:
      rows.append(_row(how, owners.get(name), raw, name, spec))
    except errors.UserError as error:
      # By message, because one mistake in a line usually hits all layers.
      causes.setdefault(str(error), []).append(name)
  found = misfits.folded(
      (", ".join(tree.fold(names)), why) for why, names in causes.items())
  found += [misfits.idle(i, line.target, specs) for i, line in enumerate(how.lines)
            if i not in {index for index, _ in owners.values()}]
  found += _unread(how, raw, rows, bool(causes))
  if found:
    raise misfits.error(found, bool(causes))
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
                           + "\n  ".join(misfits.folded(missing)))


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
      raise errors.UserError(misfits.absent(index, template, source, raw))
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


def _unread(how: Map, raw: _Specs, rows: Sequence[Row], hidden: bool) -> list[str]:
  """Reports leaves that a map does not know; empty if a misfit may be the cause."""
  idle = unread(how, raw, rows)
  left = [name for name in idle if tree.match(how.unused, name) is None]
  return [misfits.unread(left, raw.keys() - idle)] if left and not hidden else []
