"""A transfer as data: rules (names), axis maps (sizes), groups (what learns)."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any, Protocol, TypeVar

import numpy as np

from transfer_gen import errors

_Kind = TypeVar("_Kind")

@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisSizes:
  """One axis of the source as it meets the target's.

  Attributes:
    axis: Its name.
    source: Size in the source leaf.
    target: Size in the target leaf.
    source_vocabulary: What the source's rows stand for, where it is known.
    target_vocabulary: The same of the target.
    source_constants: What the source's model computes beside its params, by name,
      such as `attention_scale`; empty where it is not known.
    target_constants: The same of the target.
  """
  axis: str
  source: int
  target: int
  source_vocabulary: Any = None
  target_vocabulary: Any = None
  source_constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  target_constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
  """Target entries that are weighted sums of source entries.

  Attributes:
    rows: i32[M], which target entries.
    index: i32[M, K], the source entries that each is made of.
    weights: f32[M, K], their weights; 0 where there are fewer than K.
  """
  rows: np.ndarray
  index: np.ndarray
  weights: np.ndarray


FRESH_ROWS = "fresh"  # `Group.table_rows`.
PADDED = -2  # In `Binding.index`: an entry beyond the target's tokens.
FRESH = ("mean", "normal", "covariance", "zeros", "init")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Binding:
  """An axis map at given sizes.

  Attributes:
    index: i32[target]: which source entry each target entry copies, -1: none,
      `PADDED`: none, and not drawn either.
    fresh: How entries without a source are filled, one of `FRESH`: with the "mean"
      of the source's entries; "normal" around it, with the spread of each column;
      "covariance": likewise, with the covariance of the columns; "zeros"; or the
      model's own "init".
    note: For the audit, e.g. "vocab: 9214 of 16000 matched".
    mixture: Entries that are made of several; -1 in `index`.
    share: f32[target] or None: factor on each entry of the leaves that read the
      axis, so that the copies of an entry add up to it.
    noise: Copies of an entry in the leaves that read the axis differ by normal
      noise of this many times the leaf's root mean square; it sums to zero over
      the copies, so that the function stays.
    origins: For some fresh entries, what they were made from, for people to read.
  """
  index: np.ndarray
  fresh: str
  note: str
  mixture: Mixture | None = None
  share: np.ndarray | None = None
  noise: float = 0.0
  origins: Mapping[int, str] = dataclasses.field(default_factory=dict)


class AxisMap(Protocol):
  """Says how one axis of the source becomes the target's; a frozen dataclass."""

  def bind(self, sizes: AxisSizes) -> Binding:
    """Decides at given sizes; raises ValueError where the map cannot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  r"""One line of a plan. The first rule that matches a leaf owns it.

  Attributes:
    target: Regex for whole target names, e.g. `decoder/layer_(\d+)/(.*)`.
    source: Source name, with groups: `layer_\1/\2`; several: their mean; None: reads
      nothing.
    fresh: Where `source` is None: "init" (the model's own), "zeros", "ones".
    checkpoint: Which source, where a plan has several.
    count: How many leaves the rule must own. None: at least one.
    why: One line for the audit; cite the paper or the ticket.
  """
  target: str
  source: str | tuple[str, ...] | None
  fresh: str = "init"
  checkpoint: str = ""
  count: int | None = None
  why: str = ""

  def __post_init__(self):
    if self.fresh not in ("init", "zeros", "ones"):
      raise errors.UserError(
          f"Rule {self.target!r}: fresh is {self.fresh!r}, must be 'init', 'zeros'"
          " or 'ones'.")

  @property
  def sources(self) -> tuple[str, ...]:
    """Names of what it reads, none, one or several."""
    if self.source is None:
      return ()
    return (self.source,) if isinstance(self.source, str) else tuple(self.source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class On:
  """An axis map and the leaves that it acts on; the first `On` that matches wins."""
  axis: str
  map: AxisMap
  params: str = ".*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2SP:
  """Holds a group to its source by a penalty: L2-SP (Li et al., 2018).

  The loss gets alpha / 2 ||w - w0||^2 over the entries that a source reached, and
  beta / 2 ||w||^2 over those that started fresh; w0 is what the run started from.
  Weight decay acts beside it: `Group.weight_decay=0` leaves the penalty alone.
  """
  alpha: float
  beta: float = 0.0

  def __post_init__(self):
    _at_least("L2SP", "alpha", self.alpha)
    _at_least("L2SP", "beta", self.beta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWC:
  """Holds a group to its source where that mattered there (Kirkpatrick et al., 2017).

  The loss gets strength / 2 sum F (w - w0)^2. All leaves must be plain copies.

  Attributes:
    strength: Of the penalty; weight decay acts beside it.
    fisher: Path of the source's diagonal Fisher information F, see `train.fisher`.
  """
  strength: float
  fisher: str

  def __post_init__(self):
    _at_least("EWC", "strength", self.strength)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixout:
  """Mixes a group with its source in training (Lee et al., 2020).

  Each entry that a source reached is the source's with probability p, drawn anew for
  each pass; the result is shifted and scaled so that its mean is the entry itself.
  """
  p: float

  def __post_init__(self):
    if not 0 <= self.p < 1:
      raise errors.UserError(f"Mixout: p is {self.p}, must be in [0, 1).")


ANCHORS = (L2SP, EWC, Mixout)
NO_DECAY = r"(.*/)?(bias|recurrent_bias|scale)"  # Names of norms and biases.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Leaves that learn alike.

  Attributes:
    name: For the audit and the metrics.
    params: Regex for whole target names; the first group that matches wins.
    lr_mult: Factor on the run's learning rate.
    unfreeze_step: First step that updates the group. 0: always. None: never.
    schedule: Name of its own, see `config.Optim`, from its first step to the end of
      the run. None: the run's.
    weight_decay: Its own. None: the run's.
    no_decay: Regex for the leaves in it that do not decay; norms and biases.
    table_rows: The only rows that learn, of each of its tables: their indices (kept
      sorted, as a tuple), or "fresh": all that copy no row of the source. The rows
      of an output kernel are its columns. None: all there is.
    anchor: What holds it to its source, one of `ANCHORS`. None: nothing.
  """
  name: str
  params: str
  lr_mult: float = 1.0
  unfreeze_step: int | None = 0
  schedule: str | None = None
  weight_decay: float | None = None
  no_decay: str = NO_DECAY
  table_rows: str | tuple[int, ...] | np.ndarray | None = None
  anchor: L2SP | EWC | Mixout | None = None

  def __post_init__(self):
    if not self.lr_mult > 0:
      raise errors.UserError(
          f"Group {self.name!r}: lr_mult is {self.lr_mult}, must be > 0."
          " To freeze a group, set unfreeze_step=None.")
    if self.unfreeze_step is not None and self.unfreeze_step < 0:
      raise errors.UserError(
          f"Group {self.name!r}: unfreeze_step is {self.unfreeze_step}, must be a"
          " step >= 0, or None to freeze the group.")
    if self.weight_decay is not None:
      _at_least(f"Group {self.name!r}", "weight_decay", self.weight_decay)
    if not isinstance(self.anchor, (*ANCHORS, type(None))):
      raise errors.UserError(
          f"Group {self.name!r}: anchor is {self.anchor!r}, must be one of"
          f" {', '.join(kind.__name__ for kind in ANCHORS)}.")
    if self.table_rows is not None:
      object.__setattr__(self, "table_rows", _row_ids(self.name, self.table_rows))
    told = [name for name in ("schedule", "weight_decay", "table_rows", "anchor")
            if getattr(self, name) is not None]
    if self.unfreeze_step is None and told:
      raise errors.UserError(
          f"Group {self.name!r} never learns (unfreeze_step=None), and {told[0]} says"
          " how it does. Remove one of them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferPlan:
  """What of the sources reaches each leaf of the target, and what learns.

  Attributes:
    rules: Names; every target leaf is owned by the first that matches.
    groups: What learns; likewise.
    axes: Sizes; likewise for every axis that differs.
    unused_source: Regexes for source leaves that may stay unread; those of a named
      checkpoint are called `name:leaf`.
  """
  rules: tuple[Rule, ...]
  groups: tuple[Group, ...]
  axes: tuple[On, ...] = ()
  unused_source: tuple[str, ...] = ()


SCRATCH = TransferPlan(
    rules=(Rule(target=".*", source=None, why="from scratch"),),
    groups=(Group(name="all", params=".*"),))


KINDS: dict[str, type] = {
    "Mixture": Mixture, **{kind.__name__: kind for kind in ANCHORS}}


def axis_map(kind: type[_Kind]) -> type[_Kind]:
  """Registers a class of axis maps, so that plans which use it load from JSON."""
  KINDS[kind.__name__] = kind
  return kind


def to_json(plan: TransferPlan) -> dict[str, Any]:
  """The plan as JSON types; `arrays` holds what stands there by its hash.

  Fields at their defaults are left out, so that a plan is read by any version of
  the package that knows what it uses: a default is part of the format.
  """
  return {"format": 1, **_encode(plan)}


def arrays(plan: TransferPlan) -> dict[str, np.ndarray]:
  """The arrays of a plan's axis maps and groups, by the hash that its JSON names
  them with."""
  found = {}

  def walk(value):
    if isinstance(value, np.ndarray):
      found[_hash(value)] = value
    elif dataclasses.is_dataclass(value):
      for field in dataclasses.fields(value):
        walk(getattr(value, field.name))

  for on in plan.axes:
    walk(on.map)
  for group in plan.groups:
    walk(_stored(group.table_rows))
  return found


def from_json(
    data: Mapping[str, Any], stored: Mapping[str, np.ndarray] | None = None
) -> TransferPlan:
  """The plan that `to_json` wrote.

  Args:
    data: Its JSON.
    stored: Its `arrays`.

  Raises:
    errors.UserError: If a field, a kind of axis map or anchor, or an array is unknown.
  """
  stored = stored or {}
  fields = {field.name for field in dataclasses.fields(TransferPlan)}
  if data.get("format", 1) != 1 or data.keys() - fields - {"format"}:
    unknown = ", ".join(sorted(data.keys() - fields - {"format"})) or "format"
    raise errors.UserError(
        f"The plan is of a newer version of transfer_gen: {unknown} is not known here.")
  try:
    return TransferPlan(
        rules=tuple(Rule(**_decode(rule, stored)) for rule in data["rules"]),
        groups=tuple(Group(**_decode(group, stored)) for group in data["groups"]),
        axes=tuple(On(**_decode(on, stored)) for on in data.get("axes", ())),
        unused_source=tuple(data.get("unused_source", ())))
  except (KeyError, TypeError) as error:
    raise errors.UserError(f"Not a transfer plan: {error}") from error


def fingerprint(plan: TransferPlan) -> str:
  """First 16 hexadecimal digits of the SHA-256 of the plan."""
  text = json.dumps(to_json(plan), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encode(value: Any) -> Any:
  if isinstance(value, np.ndarray):
    return {"array": _hash(value), "dtype": str(value.dtype),
            "shape": list(value.shape)}
  if isinstance(value, (tuple, list)):
    return [_encode(v) for v in value]
  if not dataclasses.is_dataclass(value):
    return value
  kind = {"kind": type(value).__name__} if type(value).__name__ in KINDS else {}
  return kind | {
      field.name: _encode(
          _stored(value.table_rows) if field.name == "table_rows"
          else getattr(value, field.name))
      for field in dataclasses.fields(value)
      if not _is_default(field, getattr(value, field.name))}


def _stored(table_rows: str | tuple[int, ...] | None) -> Any:
  """Row ids as an array, for there may be many; all else as it is."""
  return (np.asarray(table_rows, np.int32) if isinstance(table_rows, tuple)
          else table_rows)


def _row_ids(group: str, table_rows: Any) -> str | tuple[int, ...]:
  if isinstance(table_rows, str) and table_rows == FRESH_ROWS:
    return FRESH_ROWS
  ids = np.asarray(table_rows)
  if ids.dtype.kind not in "iu" or ids.ndim != 1 or not ids.size or ids.min() < 0:
    raise errors.UserError(
        f"Group {group!r}: table_rows is {table_rows!r}, must be {FRESH_ROWS!r} or"
        " indices of rows, at least one.")
  return tuple(np.unique(ids).tolist())


def _at_least(owner: str, field: str, value: float) -> None:
  if not value >= 0:
    raise errors.UserError(f"{owner}: {field} is {value}, must be >= 0.")


def _is_default(field: dataclasses.Field, value: Any) -> bool:
  return (field.default is not dataclasses.MISSING
          and not isinstance(value, np.ndarray) and value == field.default)


def _decode(value: Any, stored: Mapping[str, np.ndarray]) -> Any:
  if isinstance(value, list):
    return tuple(_decode(v, stored) for v in value)
  if not isinstance(value, Mapping):
    return value
  if "array" in value:
    if value["array"] not in stored:
      raise KeyError(f"array {value['array']} is not stored with it")
    return stored[value["array"]]
  fields = {k: _decode(v, stored) for k, v in value.items() if k != "kind"}
  if "kind" not in value:
    return fields
  if value["kind"] not in KINDS:
    raise KeyError(f"{value['kind']!r} is not known to this version")
  return KINDS[value["kind"]](**fields)


def _hash(array: np.ndarray) -> str:
  data = np.ascontiguousarray(array)
  head = f"{data.dtype}{data.shape}".encode()
  return hashlib.sha256(head + data.tobytes()).hexdigest()[:16]
