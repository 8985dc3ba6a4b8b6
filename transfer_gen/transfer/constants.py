"""Finds what a target computes otherwise than the model that its leaves come from.

Constants are what a model computes with beside its params: its activation, the epsilon
of its norms, the kind of its positions. Leaves that are copied into a model with other
constants no longer compute what they were trained for, although every shape fits.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transfer_gen.config import names
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

Constants = Mapping[str, Any]
_CAUSAL, _SHARED = "causal", "shared"
# What follows from the side on which blocks run, by whether they run with a causal mask
# there: a name and a sentence. It is said, and needs no allowance.
_MASKS = {
    False: (f"{names.ENCODER}{_CAUSAL}", "the encoder runs its blocks without their"
            " causal mask: each place reads those behind it, too"),
    True: (_CAUSAL, "the decoder runs its blocks with a causal mask: no place reads"
           " those behind it any more")}
TOLD = dict(_MASKS.values())
# What says nothing of the function alone: another family is another structure, which
# the rules relate; the next two follow from `position` and from sizes; an id of one
# vocabulary says nothing in another; an encoder is compared by itself; and masks are
# compared side by side.
_IMPLIED = ("family", "rotary", "undivided", "pad_token", "encoder_side", _CAUSAL,
            _SHARED)


def differences(source: Constants, target: Constants) -> dict[str, tuple[Any, Any]]:
  """Returns the constants in which two models differ, as (source's, target's).

  Only constants that both models have are compared, so that models of different
  families can share leaves.

  >>> differences({"activation": "gelu", "cell": "lstm"}, {"activation": "relu"})
  {'activation': ('gelu', 'relu')}

  Args:
    source: Constants of the source's model, by name; empty if unknown.
    target: Constants of the target's model.
  """
  both_rotary = bool(source.get("rotary") and target.get("rotary"))
  found = {}
  for name in source.keys() & target.keys():
    theirs, mine = source[name], target[name]
    # Of models of different depths, no layer is that of the same number.
    if name == "windows" and len(theirs) != len(mine):
      theirs, mine = sorted(set(theirs)), sorted(set(mine))
    idle = name.startswith("rotary_") and not both_rotary
    if theirs != mine and name not in _IMPLIED and not idle:
      found[name] = theirs, mine
  # The names came out of a set, whose order may change from one process to the next.
  return dict(sorted(found.items()))


def of_rows(
    rows: Iterable[Any], constants: Mapping[str, Constants]
) -> dict[str, dict[str, tuple[Any, Any]]]:
  """Returns what the target computes otherwise, by the checkpoint that leaves are from.

  Checkpoints of which only tables are read are left out.

  Args:
    rows: `resolve.Row`s.
    constants: Constants by checkpoint name, and the target's under
      `vocabulary.TARGET`.
  """
  target = constants.get(vocabulary.TARGET, {})
  found: dict[str, dict[str, tuple[Any, Any]]] = {}
  compared = set()
  for row in rows:
    if not row.sources or set(row.spec.axes) & set(vocabulary.TABLES):
      continue
    sides = row.checkpoint, _in_encoder(row.sources[0]), _in_encoder(row.name)
    if sides not in compared:
      compared.add(sides)
      both = constants.get(row.checkpoint, {}), target
      differ = differences(_of_side(both[0], sides[1]), _of_side(both[1], sides[2]))
      there, here = _masks(both[0], sides[1]), _masks(both[1], sides[2])
      for mask in here - there if there else ():
        differ[_MASKS[mask][0]] = not mask, mask
      found.setdefault(row.checkpoint, {}).update(differ)
    # Heads of another width have another scale by default, which axis maps check.
    if any(row.spec.axes[change.dim] == "kv" for change in row.changes):
      found[row.checkpoint].pop("attention_scale", None)
  return {name: pairs for name, pairs in found.items() if pairs}


def _in_encoder(name: str) -> bool:
  return name.startswith(names.ENCODER)


def _of_side(constants: Constants, encoder: bool) -> Constants:
  """Returns the constants of a side, which an encoder may have of its own."""
  if not encoder or "encoder_side" in constants:
    return constants.get("encoder_side", constants) if encoder else constants
  # Those of the decoder hold for an encoder without its own, except for the mask.
  return {**constants, _CAUSAL: False} if _CAUSAL in constants else constants


def _masks(constants: Constants, encoder: bool) -> set[bool]:
  """Returns whether the blocks of a side run with a causal mask; both if shared."""
  side = _of_side(constants, encoder)
  if _CAUSAL not in side:
    return set()
  return {False, True} if constants.get(_SHARED) else {side[_CAUSAL]}


def misfits(
    plan: plan_lib.TransferPlan, rows: Sequence[Any],
    constants: Mapping[str, Constants]) -> list[str]:
  """Returns a line for each checkpoint whose model computes otherwise than the target.

  Constants in `TransferPlan.may_differ`, and those of `TOLD`, are allowed to differ.

  Args:
    plan: The plan.
    rows: `resolve.Row`s of the plan.
    constants: As of `of_rows`.
  """
  lines = []
  for checkpoint, found in of_rows(rows, constants).items():
    wrong = {name: pair for name, pair in found.items()
             if name not in plan.may_differ and name not in TOLD}
    if wrong:
      of = f"source {checkpoint!r}" if checkpoint else "source"
      listed = "; ".join(f"{name} is {theirs!r} there and {mine!r} here"
                         for name, (theirs, mine) in wrong.items())
      lines.append(
          f"the model of the {of} computes otherwise than the target: {listed}. Set"
          " the model's fields to the source's (model='source' takes them all), or"
          f" allow it: TransferPlan(may_differ={tuple(wrong)!r}).")
  return lines
