"""Strategies by name: each decides what learns in a run, and with which objective."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import difflib
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import groups as groups_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import suggest

Run = config_lib.Run
# Has no writer below: a search puts another strategy in its place beforehand.
AUTO = "auto"
LORA = "lora"
# What `distill.student` calls the leaves that it adds.
PROJECTIONS = "distill/.*"
_Groups = tuple[plan_lib.Group, ...]
_ALL = (plan_lib.Group(name="all", params=".*"),)
# The last one in each list, because the first group that matches owns a leaf.
_REST = plan_lib.Group(name="rest", params=".*", unfreeze_step=None)
# The best learning rate of LoRA is about ten times that of training all params
# (Schulman et al., 2025).
_LORA_MULT = 10.0


def check(run: config_lib.Run) -> None:
  """Checks the strategy of a run as far as the config shows it.

  Raises:
    errors.UserError: If there is no strategy of that name, the run has no source, or a
      field is set that the strategy does not read.
  """
  name = run.strategy.name
  if name and name not in _READS:
    near = difflib.get_close_matches(name, _READS, n=1)
    raise errors.UserError(
        f"strategy.name is {name!r}, must be one of {', '.join(_READS)}."
        + (f" Nearest: {near[0]}." if near else ""))
  if name and not run.all_sources():
    raise errors.UserError(
        f"strategy.name is {name!r}, and the run has no source to learn from: set"
        " source.path.")
  _check_ignored(run.strategy)


def base(
    run: config_lib.Run, plan: plan_lib.TransferPlan | None, matches: bool
) -> plan_lib.TransferPlan:
  """Returns the plan that a strategy starts from, in which everything learns.

  Args:
    run: Config of the run.
    plan: The plan that the user wrote. If None, each leaf comes from the source's leaf
      of the same name.
    matches: Whether the rows of the vocabulary can be matched by token, if the user
      wrote no plan.

  Raises:
    errors.UserError: If the strategy is `auto`, which only names a search.
  """
  if run.strategy.name == AUTO:
    raise errors.UserError(
        "strategy.name=auto is decided by `train` and `study`, which search first.")
  if plan is not None:
    rules = [rule for rule in plan.rules if rule.target != PROJECTIONS]  # Come later.
    return dataclasses.replace(plan, rules=tuple(rules), groups=_ALL)
  return by_name(run, matches)


def by_name(run: config_lib.Run, matches: bool) -> plan_lib.TransferPlan:
  """Returns the plan in which each leaf comes from the source's leaf of its name.

  Args:
    run: Config of the run.
    matches: Whether the rows of the vocabulary are matched by token.
  """
  return plan_lib.TransferPlan(
      # The first rule that matches wins, so those of adapters stand before the rule for
      # all leaves.
      rules=(*_identity(run.adapters), plan_lib.Rule(
          target="(.*)", source=r"\1", why="the leaf of its name")),
      axes=(plan_lib.On(axis="vocab", map=axes_lib.MatchTokens()),) if matches else (),
      groups=_ALL)


def write(
    run: config_lib.Run, plan: plan_lib.TransferPlan, rows: Sequence[resolve.Row]
) -> config_lib.Run:
  """Returns the run with everything that its strategy decides.

  Args:
    run: Config of the run, with the vocabulary size filled in.
    plan: What `base` returned.
    rows: The rows of that plan, with the run's own adapters.

  Returns:
    The run with a plan whose groups are written. `lora` also adds adapters, and
    `distill` the source as a teacher.

  Raises:
    errors.UserError: If the strategy asks for what the model does not have.
  """
  strategy = run.strategy
  # The order matters: freezing counts groups as the strategy wrote them, the factor of
  # the learning rate must not reach the groups for fresh leaves below, and those go
  # first, because the first group that matches owns a leaf.
  groups, changes = _WRITERS[strategy.name](run, rows)
  groups = _frozen_below(groups, strategy.frozen)
  groups = _scaled(
      groups, strategy.lr_mult or (_LORA_MULT if strategy.name == LORA else 1.0))
  rules = (*(() if run.adapters else _identity(changes.get("adapters", ()))),
           *plan.rules)
  groups = (*_fresh(rows, groups), *groups)
  owners = {_owner(groups, row.name).name for row in rows}
  groups = tuple(group for group in groups  # What is left of a frozen one learns.
                 if group.name in owners or group.unfreeze_step is not None)
  plan = dataclasses.replace(plan, rules=rules, groups=groups)
  return dataclasses.replace(run, transfer=plan, **changes)


def with_drawn(
    run: config_lib.Run, name: str, params: str, why: str) -> config_lib.Run:
  """Returns the run with leaves that no source has, which are drawn and learn.

  Args:
    run: What `write` returned.
    name: Name of their group.
    params: Regex for their names.
    why: Reason, for the audit.
  """
  drawn = plan_lib.Rule(target=params, source=None, why=why)
  return dataclasses.replace(run, transfer=dataclasses.replace(
      run.transfer, rules=(drawn, *run.transfer.rules),
      groups=(plan_lib.Group(name=name, params=params), *run.transfer.groups)))


# All writers take the rows, so that one table can call them, though only that of
# `distill` reads any.
def _fine_tune(run, rows):
  del rows
  return (groups_lib.by_layer(run.model) if run.strategy.frozen else _ALL), {}


def _feature_extraction(run, rows):
  del rows
  # The groups are in order from the top to the bottom, so the first one holds the head.
  top, *_ = groups_lib.by_layer(run.model)
  return (top, _REST), {}


# Which layers are best to tune depends on how the new data differ (Lee et al., 2023),
# so there is no default for `learn`.
def _surgical(run, rows):
  del rows
  groups, wanted = groups_lib.by_layer(run.model), run.strategy.learn
  names = [group.name for group in groups]
  unknown = [name for name in wanted if name not in names]
  if unknown or not wanted:
    raise errors.UserError(
        f"strategy.learn is {wanted!r}, must name some of the groups"
        f" {', '.join(names)}" + (f": {unknown[0]!r} is none." if wanted else "."))
  return tuple(group for group in groups if group.name in wanted) + (_REST,), {}


def _discriminative(run, rows):
  del rows
  return groups_lib.discriminative(run.model, run.strategy.factor), {}


def _gradual_unfreezing(run, rows):
  del rows
  groups = groups_lib.by_layer(run.model)
  every = run.strategy.every or _latest(run, groups)
  return groups_lib.gradual_unfreezing(groups, every), {}


# A tenth is one pass over the data, as `run.choices` chooses the steps. Of a model with
# many layers, the lowest would start too late.
def _ulmfit(run, rows):
  del rows
  groups = groups_lib.discriminative(run.model, run.strategy.factor)
  every = run.strategy.every or max(
      1, min(run.train.steps // 10, _latest(run, groups)))
  return groups_lib.gradual_unfreezing(groups, every), {}


def _latest(run: config_lib.Run, groups: _Groups) -> int:
  """Steps between two groups if the last one starts in the middle of the run."""
  return max(1, run.train.steps // (2 * len(groups)))


def _l2_sp(run, rows):
  del rows
  anchor = plan_lib.L2SP(alpha=run.strategy.alpha, beta=run.strategy.beta)
  groups = groups_lib.by_layer(run.model) if run.strategy.frozen else _ALL
  # Weight decay pulls to zero and the anchor to the source. L2-SP replaces the former
  # (Li et al., 2018).
  return tuple(dataclasses.replace(group, anchor=anchor, weight_decay=0.0)
               for group in groups), {}


def _lora(run, rows):
  del rows
  kernels = (config_adapters.DRAWN_KERNELS if isinstance(run.model, config_lib.Sketch)
             else config_adapters.LAYER_KERNELS)
  adapters = run.adapters or (config_lib.LoRA(
      params=kernels, rank=run.strategy.rank,
      # With alpha = 2 r the factor of the product, alpha / r, is 2 for every rank.
      alpha=2.0 * run.strategy.rank),)
  return groups_lib.low_rank(adapters), {"adapters": adapters}


def _distill(run, rows):
  # Vocabularies are the same if each row of a table comes from the source's row of the
  # same number. Then the loss compares logits token by token.
  same = all(np.array_equal(change.binding.index, np.arange(row.spec.shape[change.dim]))
             for row in rows for change in row.changes if _is_vocab(row, change))
  if run.source is None:
    raise errors.UserError(
        "strategy.name=distill: the teacher is the run's source; set source.path.")
  distill = run.distill or config_lib.Distill(
      teacher=run.source, vocabularies="same" if same else "uld")
  return _ALL, {"distill": distill}


_WRITERS: Mapping[str, Callable[..., tuple[_Groups, dict[str, Any]]]] = {
    "fine_tune": _fine_tune, "feature_extraction": _feature_extraction,
    "surgical": _surgical, "discriminative": _discriminative,
    "gradual_unfreezing": _gradual_unfreezing, "ulmfit": _ulmfit, "l2_sp": _l2_sp,
    LORA: _lora, "distill": _distill}


# What each reads of the fields of `config.Strategy`.
_READS: Mapping[str, tuple[str, ...]] = {
    "fine_tune": ("lr_mult", "frozen"), "feature_extraction": ("lr_mult",),
    "surgical": ("lr_mult", "frozen", "learn"),
    "discriminative": ("lr_mult", "frozen", "factor"),
    "gradual_unfreezing": ("lr_mult", "frozen", "every"),
    "ulmfit": ("lr_mult", "frozen", "factor", "every"),
    "l2_sp": ("lr_mult", "frozen", "alpha", "beta"), LORA: ("lr_mult", "rank"),
    "distill": ("lr_mult",), AUTO: ("budget",)}


def _check_ignored(strategy: config_lib.Strategy) -> None:
  """Refuses a field that the strategy ignores: who sets it expects an effect."""
  name = strategy.name
  for field in dataclasses.fields(strategy):
    value = getattr(strategy, field.name)
    if value != field.default and field.name not in ("name", *_READS.get(name, ())):
      reason = f"{name!r} does not read it" if name else "strategy.name is empty"
      raise errors.UserError(
          f"strategy.{field.name} is {value!r}, and {reason}. Leave it at"
          f" {field.default!r}" + (f"; {name!r} reads {', '.join(_READS[name])}."
                                   if name else ", or name a strategy."))


def _identity(adapters) -> tuple[plan_lib.Rule, ...]:
  """Rules for the leaves of adapters if no plan says where they come from."""
  if not adapters:
    return ()
  return (plan_lib.Rule(target=config_adapters.leaves(adapters), source=None,
                        why="adapters start as the identity"),)


def _frozen_below(groups: _Groups, count: int) -> _Groups:
  """Freezes the lowest `count` groups, and puts them last."""
  learning = [group for group in groups if group.unfreeze_step is not None]
  if not 0 <= count < len(learning):
    raise errors.UserError(
        f"strategy.frozen is {count}, must be 0 to {len(learning) - 1}: the strategy"
        f" has {len(learning)} groups that learn, from the top to the bottom"
        f" {', '.join(group.name for group in learning)}.")
  # The slice counts from the front, because `[-0:]` would be all of them.
  frozen = {group.name for group in learning[len(learning) - count:]}
  return tuple(
      plan_lib.Group(name=group.name, params=group.params, unfreeze_step=None)
      if group.name in frozen else group for group in groups)


def _scaled(groups: _Groups, mult: float) -> _Groups:
  """Multiplies the learning rates of the groups that learn."""
  return tuple(
      group if group.unfreeze_step is None
      else dataclasses.replace(group, lr_mult=group.lr_mult * mult)
      for group in groups)


def _fresh(rows: Sequence[resolve.Row], groups: _Groups) -> _Groups:
  """Groups for leaves that no source reached, which would stay frozen as drawn."""
  # Leaves that learn anyway need no group of their own.
  frozen = [row for row in rows if _owner(groups, row.name).unfreeze_step is None]
  whole = [row for row in frozen if not row.sources]
  # A negative index is a row that no token of the source fills. Only these rows of the
  # table learn, so that the transferred ones stay as frozen as the strategy says.
  tables = [row for row in frozen if any(
      _is_vocab(row, change) and (change.binding.index < 0).any()
      for change in row.changes)]
  return tuple(
      plan_lib.Group(name=name, table_rows=table_rows, params="|".join(suggest.cover(
          [row.name for row in some], [row.name for row in rows])))
      for name, some, table_rows in (
          ("fresh", whole, None), ("new_tokens", tables, "fresh"))
      if some)


def _is_vocab(row: resolve.Row, change: resolve.Change) -> bool:
  return row.spec.axes[change.dim] == "vocab"


def _owner(groups: _Groups, name: str) -> plan_lib.Group:
  return next(group for group in groups if tree.match([group.params], name))
