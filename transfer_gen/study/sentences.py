"""What a study found, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from transfer_gen.metrics import measures
from transfer_gen.metrics import summary
from transfer_gen.study import comparison
from transfer_gen.study import every_training

Facts = Mapping[str, Any]
_UNITS = {"tokens": "tokens", "gflops": "GFLOPs"}


def verdicts(facts: Facts) -> list[str]:
  """Returns what is to be said of each pair; `facts` is what `study.run` returns."""
  lines, warned, measured = [], set(), []
  for pair in facts["comparisons"]:
    controls = facts["runs"][pair["control"]]
    lines += _longer(facts, pair)
    lines += [*_alarm(pair, _equal(facts)), _gain(pair), *_metrics(pair)]
    lines += [_when(pair, controls), *_gap(pair)]
    # Pairs with the controls of one curve have the same effective data.
    effective = pair["treated"], pair["effective_data"]
    if effective not in measured:
      measured.append(effective)
      lines += _effective(pair)
    lines += _payback(pair)
    if pair["control_still_improving"] and pair["control"] not in warned:
      warned.add(pair["control"])
      lines.append(_improving(pair))
  return lines


def _longer(facts: Facts, pair: Facts) -> list[str]:
  """Says of a control what came of giving it the steps that it needs."""
  longer = facts.get("longer", {}).get(pair["control"])
  if longer is None:
    return []
  begin = (f"{longer['of']} had its own steps" if longer["times"] == 1 else
           f"{pair['control']} is {longer['of']} with {longer['times']} times the"
           " steps")
  lines = [f"{begin}, at whose end its validation loss"
           f" {'still fell' if pair['control_still_improving'] else 'no longer fell'}."]
  if longer["times"] > 1 and comparison.main(pair)["high"] < 0:
    lines.append(f"So many steps bring more than the source brought to"
                 f" {pair['treated']}, which had those of {longer['of']}; with as many"
                 f" as {pair['control']}, it was not tried.")
  return lines


def answer(facts: Facts) -> list[str]:
  """Returns the answer to the question: the gain of the first pair.

  If its control was given more steps, the gain over that one belongs to the answer: a
  lead over a control that was cut while it improved is no more than time.
  """
  first, *others = facts["comparisons"]
  longer = facts.get("longer", {})
  of = lambda pair: longer.get(pair["control"], {}).get("of")
  more = [line for pair in others if pair["treated"] == first["treated"]
          and of(pair) == first["control"] for line in (
              *_longer(facts, pair)[:1], _gain(pair))]
  return [_gain(first), *more]


def alarms(facts: Facts) -> list[str]:
  """Returns the alarms for negative transfer, of all pairs."""
  return [line for pair in facts["comparisons"]
          for line in _alarm(pair, _equal(facts))]


def costs(facts: Facts) -> list[str]:
  """Returns what each source cost."""
  return [f"{name} cost {cost['train_tokens']:,} tokens in"
          f" {cost['train_seconds']:.0f} s of training, before any target."
          for name, cost in facts["sources"].items()]


def rates(facts: Facts) -> list[str]:
  """Returns which learning rate was chosen for each run, of which, if of several."""
  shown, edge = [], []
  for name, best in facts["summary"]["lrs"].items():
    ended = {one["lr"] for one in facts["trainings"]
             if one["run"] == name and one["role"] == every_training.TRIED} | {best}
    failed = {one["lr"] for one in facts.get("failures", ())
              if one["name"] == name and one["lr"]} - ended
    tried = sorted(ended | failed)
    if len(tried) > 1:
      shown.append(f"{name} {best:g} of " + ", ".join(
          f"{lr:g}{' (failed)' * (lr in failed)}" for lr in tried))
      edge += [name] if best in (tried[0], tried[-1]) else []
  lines = [f"Learning rate chosen by validation, mean over seeds: {'; '.join(shown)}."
           ] if shown else []
  if edge:
    lines.append(
        f"The rate{'s' * (len(edge) > 1)} of {', '.join(edge)}"
        f" lie{'s' * (len(edge) == 1)} at the edge of what was tried, and better ones"
        " may lie beyond.")
  return lines


def _gain(pair: Facts) -> str:
  found = comparison.main(pair)
  spread = (f"95% interval {found['low']:+.4f} to {found['high']:+.4f} over"
            f" {_count(found['documents'], 'test document')} and"
            f" {_count(found['seeds'], 'seed')}" if found["documents"] > 1
            else "one test document, so no interval")
  verdict = summary.verdict(found, found["gain"] > 0)
  return (f"{pair['treated']} against {pair['control']}: {found['gain']:+.4f}"
          f" {unit(pair)} ({spread}), {verdict}; ahead on {found['seeds_ahead']} of"
          f" {_count(found['seeds'], 'seed')}, on {pair['wins']:.0%} of the documents.")


def _metrics(pair: Facts) -> list[str]:
  """A sentence for each metric of texts."""
  lines = []
  for name, one in pair["metrics"].items():
    shown = [f"{'+' if one[key] > 0 else ''}{measures.shown(name, one[key])}"
             for key in ("difference", "low", "high")]
    verdict = summary.verdict(one, one["better"])
    lines.append(
        f"{pair['treated']} against {pair['control']}, {name}: {shown[0]} (95% interval"
        f" {shown[1]} to {shown[2]}; p = {one['p']:.4f}), {verdict}; ahead on"
        f" {one['seeds_ahead']} of {_count(one['seeds'], 'seed')}.")
  return lines


def _equal(facts: Facts) -> int:
  """Counts the pairs whose control has no more steps than the treated run."""
  longer = facts.get("longer", {})
  return sum(longer.get(pair["control"], {"times": 1})["times"] == 1
             for pair in facts["comparisons"])


def _alarm(pair: Facts, pairs: int) -> list[str]:
  """Says that a pair raised the alarm, one of `pairs` that could."""
  if not pair["alarm"]["raised"]:
    return []
  among = f", for the worst of {pairs} pairs" if pairs > 1 else ""
  is_worse = "is" if comparison.main(pair)["high"] < 0 else "may be"
  return [f"Negative transfer: {pair['treated']} {is_worse} worse than"
          f" {pair['control']}. If it had no effect, chance would make it look so bad"
          f" with a probability of {pair['alarm']['p']:.2g}{among}."]


def _when(pair: Facts, controls: Sequence[Facts]) -> str:
  """How soon the control's best validation loss was reached."""
  found = [(after, by) for after, by in zip(pair["reached_after"], pair["reached"])
           if by is not None]
  if not found:
    return f"{pair['treated']} never reached {pair['control']}'s best validation loss."
  mean = lambda values: sum(values) / len(values)
  ended = mean([run["step"] for run in controls])
  by, apart = mean([by for _, by in found]), mean([by - after for after, by in found])
  # What lies before the first validation is not known at all.
  first = " at its first validation," if not any(after for after, _ in found) else ""
  return (f"{pair['treated']} reached {pair['control']}'s best validation loss on"
          f" {len(found)} of {_count(len(controls), 'seed')},{first} after"
          f" {_count(round(by), 'step')} on average; {pair['control']} took"
          f" {ended:.0f}. It may have been up to {_count(round(apart), 'step')}"
          f" sooner, as none is validated between.{_spent(pair)}")


def _spent(pair: Facts) -> str:
  """What both took up to there, if all seeds of the treated run got there."""
  if not pair["cost"]:
    return ""
  took = lambda side: " and ".join(
      f"{digits(one[side])} {_UNITS[unit]}" for unit, one in pair["cost"].items())
  return (f" {pair['treated']} took {took('treated')} to there; {pair['control']} took"
          f" {took('control')}.")


def _gap(pair: Facts) -> list[str]:
  if pair["gap"] is None:
    return []
  return [f"Over the steps that both were validated in, {pair['treated']}'s validation"
          f" loss was {'lower' if pair['gap'] >= 0 else 'higher'} by"
          f" {abs(pair['gap']):.4f} {unit(pair)} on average (the area between the"
          " curves)."]


def _effective(pair: Facts) -> list[str]:
  """How much of the control's data brings the treated run's loss."""
  found = pair["effective_data"]
  if not found:
    return []
  amount = lambda size: f"{size:,.0f}"
  treated, unit = pair["treated"], found["unit"]
  low = "" if found["low"] is None else amount(found["low"])
  high = "" if found["high"] is None else amount(found["high"])
  interval = (
      f"95% interval {low} to {high}" if low and high
      else f"95% interval from {low} on, its end lies beyond what was measured" if low
      else f"95% interval up to {high}, its begin lies below what was measured" if high
      else "no interval from single seeds")
  method = f"interpolated between {found['amounts']} amounts"
  if found["method"] == "power law":
    method = (f"by a power law through {found['amounts']} amounts; interpolated,"
              f" {interpolated(found)}")
  begin = (f"Effective data: {treated}, trained on {amount(found['own'])} {unit} of"
           " target text, has the loss that training as"
           f" {_curve(pair, found['controls'])}")
  if found["bound"]:
    beyond = (
        f"more than the largest amount that was tried, > {amount(found['largest'])}"
        if found["bound"] == ">" else
        f"less than the smallest that was tried, < {amount(found['smallest'])}")
    return [f"{begin} {beyond} {unit} for ({interval}; {method})."]
  more = found["transferred"]
  which = ("transferred", "lost by the transfer") if (
      pair["control"] in found["controls"]) else ("more", "fewer")
  return [f"{begin} {amount(found['amount'])} {unit} for ({interval}; {method}):"
          f" {amount(abs(more))} {unit} {which[more < 0]}."]


def interpolated(found: Facts) -> str:
  """Returns the effective data by interpolation; they may lie outside the amounts."""
  return ("outside of them" if found["interpolated"] is None
          else f"{found['interpolated']:,.0f}")


def _curve(pair: Facts, controls: Sequence[str]) -> str:
  """What needs an amount of data: the control, or those with the steps they need."""
  if pair["control"] in controls:
    return f"{pair['control']} needs"
  return f"the controls with the most steps ({', '.join(controls)}) need"


def _payback(pair: Facts) -> list[str]:
  """From how many targets on the sources pay."""
  lines = []
  for unit, found in pair["payback"].items():
    begin = (f"With its sources, {pair['treated']} costs {found['over_control']:.3g}"
             f" times the {_UNITS[unit]} of {pair['control']} up to"
             f" {pair['control']}'s best validation loss;")
    lines.append(
        f"{begin} sources that many targets share never pay, as the steps after them"
        " save none." if found["pays_from"] is None
        else f"{begin} shared by {_count(found['pays_from'], 'target')} or more, they"
        " pay.")
  return lines


def _improving(pair: Facts) -> str:
  gain = comparison.main(pair)["gain"]
  return (f"{pair['control']} was still improving: its validation loss fell by more"
          f" than {pair['least_fall']} over the last fifth of"
          f" {pair['control_still_improving']} of"
          f" {_count(pair['seeds'], 'run')}. With more steps"
          f" {'the gain may shrink' if gain > 0 else 'it may lead by more'}.")


def digits(value: float) -> str:
  """Returns a number with at least three significant digits."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def losses(facts: Facts) -> str:
  """Says in which unit the losses of all runs are."""
  text = {"bits_per_byte" in run for runs in facts["runs"].values() for run in runs}
  if text == {True, False}:
    return "Losses are in nats per token, and of drawings in nats per step."
  return f"Losses are in nats per {'token' if text == {True} else 'step'}."


def unit(pair: Facts) -> str:
  """Returns the unit of the gain of a pair."""
  if not pair["same_tokens"]:
    return "bits per byte"
  # Drawings have no bytes, and their loss is that of a step of the pen.
  return "nats per token" if "bits_per_byte" in pair else "nats per step"


def _count(number: int, what: str) -> str:
  return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
