"""The plots of a study's page, each with the numbers that it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from transfer_gen.run import page
from transfer_gen.run import plots
from transfer_gen.study import comparison
from transfer_gen.study import sentences

Facts = Mapping[str, Any]
# Lines of metrics, by the name of a run and of each of its trainings.
Curves = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
_TICK, _NAME = 40, 16  # Letters beside a plot; of each name, where they are more.


def learning(facts: Facts, curves: Curves) -> list[plots.Plot]:
  """Returns the curves of what the compared runs were validated by."""
  compared = {name: group for name, group in curves.items() if name in facts["runs"]}
  found = [page.validations("loss", compared, "Validation loss")]
  # Of other tokens, nats per token do not compare.
  if not all(pair["same_tokens"] for pair in facts["comparisons"]):
    found.append(page.validations("bits_per_byte", compared))
  found += [page.validations(name, compared) for name in sorted({
      name for group in compared.values() for lines in group.values()
      for name in page.metrics(lines)})]
  return [one for one in found if one]


def of_sources(facts: Facts, curves: Curves) -> list[plots.Plot]:
  """Returns the curves of the runs that others start from and no pair compares."""
  found = page.validations("loss", {
      name: group for name, group in curves.items() if name not in facts["runs"]},
      "Validation loss of the sources")
  return [found] if found else []


def forgetting(facts: Facts, curves: Curves) -> list[plots.Plot]:
  """Returns what is known of forgetting: the curves, and the gain against it."""
  found = page.validations("remembered", curves, page.FORGETTING)
  return [*([found] if found else []), *_trade_off(facts)]


def gains(facts: Facts) -> list[plots.Plot]:
  """Returns the gains of all pairs with their intervals, a plot for each unit.

  There is none if there is one pair.
  """
  if len(facts["comparisons"]) == 1:
    return []
  found = by_unit(facts)
  return [_gains(_titled("Gains", unit, found), pairs) for unit, pairs in found.items()]


def by_unit(facts: Facts) -> dict[str, list[Facts]]:
  """Returns the pairs by the unit of their gains, which share no axis otherwise."""
  found: dict[str, list[Facts]] = {}
  for pair in facts["comparisons"]:
    found.setdefault(sentences.unit(pair), []).append(pair)
  return found


def _gains(title: str, pairs: Sequence[Facts]) -> plots.Plot:
  with plots.canvas((6.8, 1.0 + 0.32 * len(pairs))) as drawn:
    draw_gains(drawn.add_subplot(), pairs)
    picture = plots.svg(drawn, title)
  rows = [(pair, comparison.main(pair)) for pair in pairs]
  return plots.Plot(
      title=title, picture=picture, legend=[], table=[
          ["", "gain", "95% interval", "unit"],
          *([_pair(pair), plots.number(found["gain"]),
             f"{plots.number(found['low'])} to {plots.number(found['high'])}",
             sentences.unit(pair)] for pair, found in rows)],
      note="Bars are 95% intervals over seeds and test documents. To the right of the"
      " line, the treated run is better.")


def draw_gains(axes: Any, pairs: Sequence[Facts]) -> None:
  """Draws the gain of each pair with its interval, of one unit, on Matplotlib axes."""
  axes.axvline(0, linewidth=1, color="#7d8790")
  for row, pair in enumerate(pairs):
    found = comparison.main(pair)
    axes.plot([found["low"], found["high"]], [row, row], linewidth=4, alpha=0.4,
              **plots.fill(0))
    axes.plot([found["gain"]], [row], marker="o", **plots.fill(0, [
        f"{_pair(pair)}: {plots.number(found['gain'])} {sentences.unit(pair)}, 95%"
        f" interval {plots.number(found['low'])} to {plots.number(found['high'])}"]))
  axes.set_yticks(range(len(pairs)), [_tick(pair) for pair in pairs])
  axes.set_ylim(len(pairs) - 0.5, -0.5)
  axes.set_xlabel(f"gain, {sentences.unit(pairs[0])}")


def efficiency(facts: Facts) -> list[plots.Plot]:
  """Returns test losses over amounts of data, with the effective data of runs.

  There is one plot for each set of controls with several amounts of data.
  """
  found: dict[tuple[str, ...], dict[str, Facts]] = {}
  for pair in facts["comparisons"]:
    if pair["effective_data"]:
      found.setdefault(tuple(pair["effective_data"]["controls"]), {}).setdefault(
          pair["treated"], pair["effective_data"])
  return [_efficiency(facts, controls, treated, found)
          for controls, treated in found.items()]


def _efficiency(facts, controls, treated, every) -> plots.Plot:
  title = "Data efficiency" + (f", {' and '.join(controls)}" if len(every) > 1 else "")
  first = next(iter(treated.values()))
  unit, metric, label = first["unit"], "loss", "test loss, nats per step"
  if unit == "bytes":
    metric, label = "bits_per_byte", "test loss, bits per byte"
  losses = {name: [run[metric] for run in facts["runs"][name]]
            for name in (*controls, *treated)}
  amounts = [facts["runs"][name][0]["train_data"][unit] for name in controls]
  mean = lambda name: sum(losses[name]) / len(losses[name])
  with plots.canvas() as drawn:
    axes = drawn.add_subplot()
    axes.plot(amounts, [mean(name) for name in controls], **plots.look(0))
    for name, amount in zip(controls, amounts):
      axes.plot([amount] * len(losses[name]), losses[name], marker=".", linestyle="",
                **plots.fill(0))
    if "law" in first:
      axes.plot(*_law(first), linestyle="--", **plots.fill(0))
    for number, (name, one) in enumerate(treated.items(), 1):
      _mark(axes, one, losses[name], mean(name), number)
    plots.logarithmic(axes)
    axes.set_xlabel(f"{unit} of target text that a run was trained on")
    axes.set_ylabel(label)
    picture = plots.svg(drawn, title)
  row = lambda name, amount, *more: [
      name, f"{amount:,.0f}", plots.number(mean(name)),
      " ".join(map(plots.number, losses[name])), *more]
  names = [f"controls: {', '.join(controls)}", *treated]
  return plots.Plot(
      title=title, picture=picture, legend=plots.legend(names), table=[
          ["", unit, "mean test loss", "of each seed", "effective data",
           "95% interval", *(["interpolated"] if "law" in first else [])],
          *(row(name, amount, "", "", *([""] if "law" in first else []))
            for name, amount in zip(controls, amounts)),
          *(row(name, one["own"], _effective(one), _interval(one), *(
              [sentences.interpolated(one)] if "law" in first else []))
            for name, one in treated.items()), *_params(first)],
      note="Points are seeds. A cross marks the effective data of a run: how much data"
      " its control needs for the same loss; an arrow, that it lies beyond what was"
      " tried. The bar is its 95% interval." + (
          " The dashed line is the power law {scale:.6g} * amount ** -{exponent:.6g} +"
          " {floor:.6g}.".format(**first["law"]) if "law" in first else ""))


def _pair(pair: Facts) -> str:
  return f"{pair['treated']} against {pair['control']}"


def _tick(pair: Facts) -> str:
  """The same beside a plot, which long names would leave no room."""
  whole = _pair(pair)
  return whole if len(whole) <= _TICK else " against ".join(
      plots.short(pair[key], _NAME) for key in ("treated", "control"))


def _law(one: Facts) -> tuple[list[float], list[float]]:
  """Returns amounts and losses of a fitted law, as far as it was fitted."""
  law, steps = one["law"], 40
  ratio = (one["largest"] / one["smallest"]) ** (1 / steps)
  amounts = [one["smallest"] * ratio ** i for i in range(steps + 1)]
  return amounts, [law["scale"] * amount ** -law["exponent"] + law["floor"]
                   for amount in amounts]


def _params(one: Facts) -> list[list[str]]:
  """Returns rows of the params of a fitted law, if there is one."""
  if "law" not in one:
    return []
  error = lambda name: one["law"][f"{name}_error"]
  return [["", "power law", "standard error"], *(
      [name, plots.number(one["law"][name]),
       "unknown" if error(name) is None else plots.number(error(name))]
      for name in ("scale", "exponent", "floor"))]


def _mark(axes, one, losses, mean, number) -> None:
  """Marks a treated run where it was trained, and its effective data."""
  color = plots.fill(number)
  axes.plot([one["own"]] * len(losses), losses, marker="o", linestyle="", **color)
  where = one["amount"] or one["largest" if one["bound"] == ">" else "smallest"]
  axes.plot([one["own"], where], [mean, mean], linestyle=":", **color)
  axes.plot([where], [mean], linestyle="", markersize=10, **color,
            marker={"": "X", ">": ">", "<": "<"}[one["bound"]])
  if one["low"] is not None or one["high"] is not None:
    # An end that lies beyond what was measured is drawn up to there.
    axes.plot([one["low"] or one["smallest"], one["high"] or one["largest"]],
              [mean, mean], linewidth=5, alpha=0.3, **color)


def _effective(one: Facts) -> str:
  if one["bound"]:
    edge = one["largest"] if one["bound"] == ">" else one["smallest"]
    return f"{one['bound']} {edge:,.0f}"
  return f"{one['amount']:,.0f}"


def _interval(one: Facts) -> str:
  low, high = ("" if one[end] is None else f"{one[end]:,.0f}"
               for end in ("low", "high"))
  return f"{low} to {high}".strip() if low or high else "none"


def _titled(title: str, unit: str, found: Mapping[str, Any]) -> str:
  """Names the unit in a title where there is a plot for each of several units."""
  return f"{title}, {unit}" if len(found) > 1 else title


def _trade_off(facts: Facts) -> list[plots.Plot]:
  """Plots gain against forgetting, a point per pair and seed, if both are known.

  There is a plot for each unit of gains.
  """
  found: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
  for unit, pairs in by_unit(facts).items():
    for pair in pairs:
      metric = "loss" if pair["same_tokens"] else "bits_per_byte"
      runs = zip(*(facts["runs"][pair[key]] for key in ("treated", "control")))
      points = [
          (run["accounts"]["forgetting"], base[metric] - run[metric], run["seed"])
          for run, base in runs if "forgetting" in run.get("accounts", ())]
      if points:
        found.setdefault(unit, {})[_pair(pair)] = points
  return [_traded(_titled("Gain against forgetting", unit, found), unit, named)
          for unit, named in found.items()]


def _traded(title, unit, named) -> plots.Plot:
  with plots.canvas() as drawn:
    axes = drawn.add_subplot()
    for number, (name, points) in enumerate(named.items()):
      axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o",
                linestyle="", **plots.fill(number, [
                    f"{name}, seed {seed}: gain {plots.number(y)}, forgetting"
                    f" {plots.number(x)}" for x, y, seed in points]))
    axes.set_xlabel("forgetting: bits per byte more on the source's test text")
    axes.set_ylabel(f"gain over the control, {unit}")
    picture = plots.svg(drawn, title)
  return plots.Plot(
      title=title, picture=picture, legend=plots.legend([*named]), table=[
          ["", "forgetting, bits per byte", f"gain, {unit}"],
          *([f"{name}, seed {seed}", plots.number(x), plots.number(y)]
            for name, points in named.items() for x, y, seed in points)])
