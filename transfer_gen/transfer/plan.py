r"""A transfer as data: rules (names), axis maps (sizes) and groups (what learns).

>>> plan = TransferPlan(
...     rules=(Rule(target=r"layer_(\d+)/(.*)", source=r"block_\1/\2"),
...            Rule(target="head/.*", source=None, why="a new task")),
...     groups=(Group(name="head", params="head/.*"),
...             Group(name="body", params=".*", lr_mult=0.1)))
>>> from_json(to_json(plan)) == plan
True
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np

from transfer_gen import errors
from transfer_gen.config import declare, training, validate
from transfer_gen.transfer import plan_json

_Kind = TypeVar("_Kind", bound=type)


def axis_map(kind: _Kind) -> _Kind:
  """Registers a dataclass that plans hold, so that it can be read back from JSON.

  It is a class decorator for axis maps, and for layouts and maps of checkpoints, which
  map files write in the same way. The name of the class becomes part of the file
  format.
  """
  plan_json.KINDS[kind.__name__] = declare.strict(kind)
  return kind


def _entries(text: str, *shape: str) -> declare.Holds:
  """Returns the rule of an array of indices of entries with some dimensions."""
  return declare.Holds(
      lambda x: x.dtype.kind in "iu" and x.ndim == len(shape) and (
          not x.size or 0 <= x.min() <= x.max() <= declare.MOST),
      f"of whole numbers from 0, [{', '.join(shape)}], the {text}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisSizes:
  """One axis as the source has it and as the target has it.

  Attributes:
    axis: Name of the axis.
    source: Size in the source leaf.
    target: Size in the target leaf.
    source_vocabulary: The source's tokens (`vocabulary.Vocabulary`); None if unknown.
    target_vocabulary: The target's tokens; None if unknown.
    source_constants: Constants that the source's model uses beside its params, by
      name, such as `attention_scale`; empty if unknown.
    target_constants: The same for the target's model.
  """
  axis: str
  source: int
  target: int
  source_vocabulary: Any = None
  target_vocabulary: Any = None
  source_constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  target_constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@axis_map
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
  """Target entries that are weighted sums of source entries.

  Attributes:
    rows: i32[M], the target entries.
    index: i32[M, K], the source entries that each is made of.
    weights: f32[M, K], their weights; 0 where an entry has fewer than K parts.
  """
  rows: Annotated[np.ndarray, _entries("target entries", "M")]
  index: Annotated[np.ndarray, _entries("source entries", "M", "K")]
  weights: Annotated[np.ndarray, declare.Holds(
      lambda x: x.dtype.kind == "f" and x.ndim == 2, "of real numbers, [M, K]")]


ENTRIES = _entries("entries", "N")
FRESH_ROWS = "fresh"  # A value of `Group.table_rows`.
PADDED = -2  # In `Binding.index`: an entry beyond the target's tokens.
FRESH = ("mean", "normal", "covariance", "zeros", "init")  # Of `Binding.fresh`.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Binding:
  """What an axis map does to the entries of an axis at given sizes.

  Attributes:
    index: i32[target], the source entry that each target entry copies. -1 means that
      the entry has no source; `PADDED` means the same, and that it is never drawn.
    fresh: How entries without a source are filled, one of `FRESH`. "mean" is the mean
      of the source's entries; "normal" draws around that mean with the standard
      deviation of each column; "covariance" draws around it with the covariance of
      the columns; "zeros" fills zeros; "init" keeps the model's own initial values.
    note: Text for the audit, e.g. "vocab: 9214 of 16000 matched".
    mixture: Entries that are weighted sums of several; they are -1 in `index`.
    share: f32[target], a factor for each entry in the leaves that read the axis, so
      that the copies of an entry add up to it. If None, entries are not scaled.
    noise: Standard deviation of the normal noise by which copies of an entry differ
      in the leaves that read the axis, as a multiple of the leaf's root mean square.
      The noise sums to zero over the copies, so that the function is kept.
    origins: Text that says what a fresh entry was made from, by entry.
  """
  index: np.ndarray
  fresh: str
  note: str
  mixture: Mixture | None = None
  share: np.ndarray | None = None
  noise: float = 0.0
  origins: Mapping[int, str] = dataclasses.field(default_factory=dict)


class AxisMap(Protocol):
  """A frozen dataclass that says how one axis of the source becomes the target's."""

  def bind(self, sizes: AxisSizes) -> Binding:
    """Decides at the given sizes; raises ValueError if the map cannot produce them."""
    ...


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  r"""Says where leaves come from; the first rule that matches a leaf owns it.

  Attributes:
    target: Regex that must match the whole name of a target leaf, e.g.
      `decoder/layer_(\d+)/(.*)`.
    source: Name of the source leaf, which may use the groups of `target`, e.g.
      `layer_\1/\2`. Several names mean the mean of these leaves. None means that the
      leaf starts fresh.
    fresh: How the leaf starts if `source` is None: "init" (the model's own initial
      value), "zeros" or "ones".
    checkpoint: Name of the checkpoint to read from; "" means the only one.
    count: Number of leaves that the rule must own. If None, at least one.
    why: One line for the audit, such as a citation.
  """
  target: declare.Pattern
  source: str | Annotated[tuple[str, ...], declare.FILLED] | None
  fresh: Annotated[str, declare.OneOf("init", "zeros", "ones")] = "init"
  checkpoint: str = ""
  count: declare.Number | None = None
  why: str = ""

  def __post_init__(self) -> None:
    validate.check(self, f"Rule {declare.shown(self.target)}")

  @property
  def sources(self) -> tuple[str, ...]:
    """Names of the leaves that the rule reads; empty if it reads none."""
    if self.source is None:
      return ()
    return (self.source,) if isinstance(self.source, str) else tuple(self.source)


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class On:
  """Applies an axis map to an axis; the first `On` that matches a leaf wins.

  Attributes:
    axis: Name of the axis, e.g. "vocab".
    map: The axis map.
    params: Regex for the whole names of the leaves that it acts on.
  """
  axis: declare.Filled
  map: AxisMap
  params: declare.Pattern = ".*"

  def __post_init__(self) -> None:
    validate.check(self, f"On {declare.shown(self.axis)}")


@axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class L2SP:
  """Penalizes the distance from the source: L2-SP (Li et al., 2018).

  The penalty is alpha / 2 ||w - w0||^2 over the entries that come from a source and
  beta / 2 ||w||^2 over those that start fresh, where w0 is the start of the run.
  Weight decay applies in addition; `Group.weight_decay=0` switches it off.

  Attributes:
    alpha: Strength of the pull towards the source, at least 0.
    beta: Strength of the pull of fresh entries towards zero, at least 0.
  """
  alpha: declare.Weight
  beta: declare.Weight = 0.0

  def __post_init__(self) -> None:
    validate.check(self, "L2SP")


@axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class EWC:
  """Penalizes changes to what mattered in the source (Kirkpatrick et al., 2017).

  The penalty is strength / 2 sum F (w - w0)^2. It needs every leaf of the group to be
  a plain copy, because F has the shape of the source's leaf.

  Attributes:
    strength: Factor on the penalty, at least 0; weight decay applies in addition.
    fisher: Path of the source's diagonal Fisher information F, see `train.fisher`.
  """
  strength: declare.Weight
  fisher: declare.Filled

  def __post_init__(self) -> None:
    validate.check(self, "EWC")


@axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixout:
  """Mixes params with those of the source while training (Lee et al., 2020).

  Each entry that comes from a source is replaced by the source's value with
  probability p, drawn anew for each forward pass; the result is shifted and scaled so
  that its expectation is the entry itself.

  Attributes:
    p: Probability, from 0 up to but not including 1.
  """
  p: declare.Dropout

  def __post_init__(self) -> None:
    validate.check(self, "Mixout")


ANCHORS = (L2SP, EWC, Mixout)
NO_DECAY = r"(.*/)?(bias|recurrent_bias|scale)"  # Names of norms and biases.


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Says how leaves learn; the first group that matches a leaf owns it.

  Attributes:
    name: Name in the audit and the metrics.
    params: Regex for the whole names of the leaves.
    lr_mult: Factor on the run's learning rate, above 0.
    unfreeze_step: First step that updates the group. 0 means from the start; None
      means never.
    schedule: Name of the group's own learning rate schedule, see `config.Optim`; it
      runs from the group's first step to the end of the run. If None, the run's.
    weight_decay: The group's own weight decay, at least 0. If None, the run's.
    no_decay: Regex for leaves of the group that do not decay; by default, norms and
      biases.
    table_rows: The only rows of each table in the group that learn: their indices, or
      "fresh" for all rows that copy no row of the source. The rows of an output
      kernel are its columns. If None, all entries learn.
    anchor: A penalty or mixing that keeps the group near its source, one of
      `ANCHORS`. If None, nothing does.
  """
  name: declare.Filled
  params: declare.Pattern
  lr_mult: Annotated[float, declare.Between(
      declare.SMALL, declare.LARGE, "to freeze a group, set unfreeze_step=None")] = 1.0
  unfreeze_step: declare.Count | None = 0
  schedule: training.Schedule | None = None
  weight_decay: declare.Weight | None = None
  no_decay: declare.Pattern = NO_DECAY
  table_rows: (
      Annotated[str, declare.OneOf(FRESH_ROWS)]
      | Annotated[tuple[declare.Count, ...], declare.FILLED]
      | Annotated[np.ndarray, ENTRIES, declare.FILLED] | None) = None
  anchor: L2SP | EWC | Mixout | None = None

  def __post_init__(self) -> None:
    if isinstance(self.table_rows, range):
      object.__setattr__(self, "table_rows", tuple(self.table_rows))
    validate.check(self, f"Group {declare.shown(self.name)}")
    if self.table_rows is not None and not isinstance(self.table_rows, str):
      # A tuple, unlike an array, can be compared and hashed with the group.
      object.__setattr__(
          self, "table_rows", tuple(np.unique(self.table_rows).tolist()))
    given = [name for name in ("schedule", "weight_decay", "table_rows", "anchor")
             if getattr(self, name) is not None]
    if self.unfreeze_step is None and given:
      raise errors.UserError(
          f"Group {self.name!r} never learns (unfreeze_step=None), and {given[0]} says"
          " how it does. Remove one of them.")


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferPlan:
  """What reaches each leaf of the target from the sources, and what learns.

  Attributes:
    rules: Where leaves come from; the first rule that matches a leaf owns it.
    groups: How leaves learn; the first group that matches a leaf owns it.
    axes: Axis maps for the axes whose sizes differ; the first that matches wins.
    unused_source: Regexes for source leaves that may stay unread. A leaf of a named
      checkpoint is called `name:leaf` here.
    may_differ: Names of constants, such as `activation`, in which the target's model
      may differ from the models that its leaves come from; see `transfer.constants`.
      The audit lists them, and any other difference is a misfit.
  """
  rules: tuple[Rule, ...]
  groups: tuple[Group, ...]
  axes: tuple[On, ...] = ()
  unused_source: tuple[declare.Pattern, ...] = ()
  may_differ: tuple[declare.Filled, ...] = ()

  def __post_init__(self) -> None:
    validate.check(self, "plan")


SCRATCH = TransferPlan(
    rules=(Rule(target=".*", source=None, why="from scratch"),),
    groups=(Group(name="all", params=".*"),))


def to_json(plan: TransferPlan) -> dict[str, Any]:
  """Returns the plan as JSON types; arrays are named by the hashes of `arrays`.

  Fields at their defaults are left out, so that every version of the package reads a
  plan whose fields it knows. A default is therefore part of the format.

  >>> to_json(SCRATCH)["rules"]
  [{'target': '.*', 'source': None, 'why': 'from scratch'}]
  """
  return {"format": 1, **plan_json.encode(plan)}


def arrays(plan: TransferPlan) -> dict[str, np.ndarray]:
  """Returns the arrays of a plan's axis maps and groups, by their hash in its JSON.

  >>> group = Group(name="words", params="embed/.*", table_rows=(3, 5))
  >>> plan = TransferPlan(rules=(), groups=(group,))
  >>> [array.tolist() for array in arrays(plan).values()]
  [[3, 5]]
  >>> from_json(to_json(plan), arrays(plan)) == plan
  True
  """
  return {name: array for part in (*(on.map for on in plan.axes), *plan.groups)
          for name, array in plan_json.arrays(part)}


def from_json(
    data: Any, stored: Mapping[str, np.ndarray] | None = None
) -> TransferPlan:
  """Returns the plan that `to_json` wrote.

  Args:
    data: The JSON of the plan.
    stored: The `arrays` of the plan; may be None if it has none.

  Raises:
    errors.UserError: If a field, a kind of axis map or anchor, or an array is unknown,
      or a field has a value that it does not declare.
  """
  fields = {field.name for field in dataclasses.fields(TransferPlan)}
  if not isinstance(data, Mapping) or not {"rules", "groups"} <= data.keys():
    raise errors.UserError(
        "Not a transfer plan: it must be an object with rules and groups.")
  if data.get("format", 1) != 1 or data.keys() - fields - {"format"}:
    unknown = ", ".join(sorted(data.keys() - fields - {"format"})) or "format"
    raise errors.UserError(
        "The plan was written by a newer version of transfer_gen: this version does"
        f" not know {unknown}.")
  values = {}
  for name, kind in (("rules", Rule), ("groups", Group), ("axes", On),
                     ("unused_source", None), ("may_differ", None)):
    parts = data.get(name, [])
    if not isinstance(parts, list):
      raise errors.UserError(
          f"plan.{name} is {declare.shown(parts)}, must be a list.")
    values[name] = tuple(
        plan_json.part(f"plan.{name}[{i}]", kind, part, stored or {})
        for i, part in enumerate(parts))
  return TransferPlan(**values)


def fingerprint(plan: TransferPlan) -> str:
  """Returns the first 16 hexadecimal digits of the SHA-256 of the plan's JSON.

  >>> fingerprint(SCRATCH) == fingerprint(from_json(to_json(SCRATCH)))
  True
  """
  # Sorted, so that the order of fields in the classes is no part of the format.
  text = json.dumps(to_json(plan), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
