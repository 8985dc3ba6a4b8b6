"""Measures before training beside gains, for a terminal and for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from transfer_gen.run import narrow
from transfer_gen.study import choice_page
from transfer_gen.study import evidence
from transfer_gen.study import foretold

Facts = Mapping[str, Any]  # With `comparisons` and `foretold`, see `findings.of_study`.
_TRUST = ("measure", "rank correlation", "95% interval", "pairs")


def text(facts: Facts) -> list[str]:
  """Returns lines of 80 columns; none if nothing was measured."""
  if not (found := tables(facts)):
    return []
  lines = ["Measures before training, and the gain that came:", "",
           *narrow.table(found["rows"])]
  if found["trust"]:
    lines += ["", *narrow.table(found["trust"])]
  return [*lines, "", *(line for sentence in found["sentences"]
                        for line in narrow.sentence(sentence))]


def tables(facts: Facts) -> dict[str, Any]:
  """Returns what a page shows of the measures; empty if nothing was measured.

  Returns:
    `rows`: a header, and a row for each pair; `trust`: a header, and the correlation of
    each measure with the gain, or nothing if there are too few pairs; `sentences`, what
    is not known and why; and `layers`: a header, and CKA of each layer, a column for
    each treated run.
  """
  pairs = foretold.equal(facts["comparisons"])
  if not any(pair.get("transfer") for pair in pairs):
    return {}
  names, found = _names(pairs), facts["foretold"]
  header = ("pair", evidence.TITLES["before"],
            *(title for title, _, _ in choice_page.COLUMNS), "CKA", "gain")
  rows = [header, *(
      _row(name, pair, found["unit"]) for name, pair in zip(names, pairs))]
  enough = found["pairs"] >= foretold.LEAST
  return {
      "rows": rows, "layers": _layers(names, pairs),
      "trust": [_TRUST, *map(_trust, found["measures"].items())] if enough else [],
      "sentences": [
          f"Losses and gains are in {found['unit']}; CKA after training is a mean over"
          " layers, 1 where none moved.",
          *([] if enough else [
              f"Too few pairs to say which measure foretells a gain: {found['pairs']}"
              f" of the {foretold.LEAST} that it takes at least."]),
          *_all_unknown(names, pairs)]}


def _names(pairs: Sequence[Facts]) -> list[str]:
  """The treated run of each pair, with its control where it has several."""
  treated = [pair["treated"] for pair in pairs]
  return [name if treated.count(name) == 1 else f"{name}, {pair['control']}"
          for name, pair in zip(treated, pairs)]


def _row(name: str, pair: Facts, unit: str) -> tuple[str, ...]:
  transfer = pair.get("transfer") or {}
  found, moved = (transfer.get(key) or {} for key in ("before", "moved"))
  return (
      name, choice_page.cell(found.get("before", {}).get("across_tokens"), ".4f"),
      *(choice_page.cell(found.get(key), form) for _, key, form in choice_page.COLUMNS),
      choice_page.cell(moved.get("mean"), ".3f"),
      choice_page.cell(foretold.gain(pair, unit), "+.4f"))


def _trust(one: tuple[str, Facts]) -> tuple[str, ...]:
  key, found = one
  title = evidence.TITLES[key] + (", negated" if key == "before" else "")
  if "absent" in found:
    return title, found["absent"], "", ""
  return (title, f"{found['rho']:+.2f}", f"{found['low']:+.2f} to {found['high']:+.2f}",
          str(found["pairs"]))


def _all_unknown(names: Sequence[str], pairs: Sequence[Facts]) -> list[str]:
  """Says what is not known and why, once for all pairs of which it holds."""
  found: dict[str, list[str]] = {}
  for name, pair in zip(names, pairs):
    for why in _unknown(pair.get("transfer")):
      found.setdefault(why, []).append(name)
  return [f"{'; '.join(of)}: {why}." for why, of in found.items()]


def _unknown(transfer: Facts | None) -> list[str]:
  """Says what is not known of a pair, and why."""
  if transfer is None or "absent" in transfer:
    return [transfer["absent"] if transfer else "it was not measured"]
  before, moved = transfer["before"], transfer["moved"]
  why = evidence.unknown(before["absent"]) if before else [
      "no measures before training: they failed"]
  return [*why, *(
      f"no CKA: {one}" for one in (moved["absent"] if moved else ["it failed"]))]


def _layers(names: Sequence[str], pairs: Sequence[Facts]) -> list[tuple[str, ...]]:
  """The table of CKA by layer; a run with several controls stands there once."""
  runs: dict[str, dict[int, str]] = {}
  for pair in pairs:
    moved = (pair.get("transfer") or {}).get("moved") or {"layers": []}
    if moved["layers"]:
      runs[pair["treated"]] = {
          one["layer"]: f"{one['cka']:.3f}" + (
              f" (source {one['source']})" if one["source"] != one["layer"] else "")
          for one in moved["layers"]}
  count = 1 + max((layer for found in runs.values() for layer in found), default=-1)
  return [("layer", *runs), *(
      (str(layer), *(found.get(layer, "-") for found in runs.values()))
      for layer in range(count))] if runs else []
