"""What a choice of a source has found, as a table and sentences of 80 columns."""

from collections.abc import Callable, Mapping
from typing import Any

from transfer_gen.run import narrow
from transfer_gen.study import evidence as evidence_lib

# Title, key and format of each measure beside losses.
COLUMNS = (("overlap", "overlap", ".1%"), ("alignment", "alignment", "+.3f"),
           ("LogME", "logme", "+.4f"), ("copied", "copied", ".1%"))
_Facts = Mapping[str, Any]


def text(facts: _Facts) -> str:
  """Returns the table of the evidence, the order and what is chosen.

  Args:
    facts: What `choosing.choose` writes as choose.json.
  """
  return "\n".join([
      *_table(facts), "", *_paths(facts), "",
      *(line for sentence in (_order(facts), *verdict(facts))
        for line in narrow.sentence(sentence))])


def verdict(facts: _Facts) -> list[str]:
  """Returns what is chosen, whether any source helps, and what to beware of."""
  evidence, best = facts["evidence"], facts["winner"]
  value = lambda name: evidence[name][_key(facts)]["across_tokens"]
  # A run that diverged has no loss.
  shown = lambda name: "-" if value(name) is None else f"{value(name):.4f}"
  baseline = next(name for name in facts["order"] if evidence[name]["is_scratch"])
  first = next(name for name in facts["order"] if not evidence[name]["is_scratch"])
  lines = []
  if facts["helps"]:
    lines.append(f"{best} is chosen: {shown(best)} against {shown(baseline)} of"
                 f" {baseline}.")
  else:
    lines.append(f"None of the sources helps: {baseline} has {shown(baseline)}, and the"
                 f" best source, {first}, {shown(first)}. What is written starts from"
                 " scratch.")
  if not facts["asked"]["steps"]:
    lines.append("No run was trained. What a loss before any step says of the end is"
                 " little where rows or layers start fresh: --steps=N compares the"
                 " losses after N steps.")
  if len({one["before"]["documents"] for one in evidence.values()}) > 1:
    lines.append("The runs were scored on different numbers of documents, because rows"
                 " of some were too short for all: their losses compare only roughly.")
  # Of a run from scratch it is known why.
  lines += [f"{name}: {why}." for name in facts["order"]
            if not evidence[name]["is_scratch"]
            for why in evidence_lib.unknown(evidence[name]["absent"])]
  return lines


def _paths(facts) -> list[str]:
  """Where the sources lie: their short names may be those of many folders."""
  return [f"{name}: {one['path']}" for name in facts["order"]
          if not (one := facts["evidence"][name])["is_scratch"]]


def _key(facts):
  return "after" if facts["asked"]["steps"] else "before"


def _order(facts):
  steps, unit = facts["asked"]["steps"], facts["unit"]
  when = f"after {steps} step{'s' * (steps != 1)}" if steps else "before any step"
  return (f"In the order of the validation loss {when}, in {unit}; the other columns"
          " are evidence and do not decide.")


def _table(facts) -> list[str]:
  evidence, steps = facts["evidence"], facts["asked"]["steps"]
  columns: list[tuple[str, Callable[[_Facts], str]]] = [
      ("step 0", lambda one: cell(one["before"]["across_tokens"], ".4f"))]
  if steps:
    columns.append((f"step {steps}",
                    lambda one: cell(one["after"]["across_tokens"], ".4f")))
  columns += [(title, lambda one, key=key, form=form: cell(one[key], form))
              for title, key, form in COLUMNS]
  rows = [("source", *(title for title, _ in columns))]
  rows += [(name, *(show(evidence[name]) for _, show in columns))
           for name in facts["order"]]
  return narrow.table(rows)


def cell(value: float | None, form: str) -> str:
  """Returns a number in a format, or a dash if it is not known."""
  return "-" if value is None else format(value, form)
