"""Measures before training beside gains, over the pairs of several studies."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.run import page
from transfer_gen.study import finished_runs
from transfer_gen.study import foretold
from transfer_gen.study import foretold_page

RESULT, PAGE = "results.json", "report.html"
_QUESTION = "Which measures before training foretold the gains?"
_AGAIN = ("Give the study again with the command that made it: what has ended is not"
          " trained again.")
_ROUGHLY = ("Losses and LogME of different texts compare only roughly: a measure may"
            " look worse over several targets than it is for each.")


def are_studies(words: Sequence[str]) -> bool:
  """Whether words, as `finished_runs.open` takes them, are all workdirs of studies.

  Raises:
    errors.UserError: If some are and others are workdirs of runs: which run of the
      study is meant, only the user can say.
  """
  folders = [finished_runs.named_folder(word)[1] for word in words]
  studies = [one for one in folders if (epath.Path(one) / RESULT).is_file()]
  others = [one for one in folders if one not in studies and epath.Path(one).exists()]
  if studies and others:
    raise errors.UserError("\n  ".join([
        f"studies are not compared with runs, and {others[0]} is no study. Give studies"
        " alone, or a run of each, such as its best one:", *(
            f"{one}: {finished_runs.named_folder(one)[0]}={epath.Path(one) / 'best'}"
            for one in studies)]))
  return len(words) > 1 and len(studies) == len(words)


def run(
    words: Sequence[str], output: epath.PathLike, command: str = "") -> dict[str, Any]:
  """Gathers the pairs of studies, and writes what they have in common.

  Args:
    words: Workdirs of studies, or NAME=DIR, see `are_studies`.
    output: The folder to write. It receives `report.html` and `results.json`.
    command: What was typed to get this, for the report.

  Returns:
    What `results.json` holds: `question`, `command`, `studies` (folders by name),
    `comparisons` (of all pairs; names of runs begin with that of their study) and
    `foretold`, see `foretold.correlate`.

  Raises:
    errors.UserError: If two have one name or are the same, if a file is damaged, if a
      study has no result yet, or if the output is there already.
  """
  output = epath.Path(output)
  whole.check_new(output)
  named = [*map(finished_runs.named_folder, words)]
  if misfits := [*finished_runs.twice(named)]:
    raise errors.UserError("\n  ".join(["studies that cannot be compared:", *misfits]))
  of_each = {name: whole.read_json(epath.Path(folder) / RESULT, _pairs, _AGAIN)
             for name, folder in named}
  if empty := [f"{name}: none of its pairs has a result yet. {_AGAIN}"
               for name, found in of_each.items() if not found]:
    raise errors.UserError("\n  ".join(["studies that cannot be compared:", *empty]))
  pairs = [{**pair, **{key: f"{name}/{pair[key]}" for key in ("treated", "control")}}
           for name, found in of_each.items() for pair in found]
  facts = {"question": _QUESTION, "command": command, "studies": dict(named),
           "comparisons": pairs, "foretold": foretold.correlate(pairs)}
  tables = foretold_page.tables(facts)
  if not tables:
    raise errors.UserError(
        "studies that cannot be compared: none of their pairs was measured before"
        f" training. {_AGAIN}")
  tables["sentences"].append(_ROUGHLY)
  with whole.folder(output) as folder:
    whole.write_json(folder / RESULT, facts)
    whole.write_text(folder / PAGE, page.render(
        "studies.html", title=_QUESTION, transfer=tables, command=command))
  return facts


def text(facts: dict[str, Any]) -> str:
  """Returns what was found, in 80 columns."""
  return "\n".join(["", *foretold_page.text(facts), *foretold_page.narrow.sentence(
      _ROUGHLY), ""])


def _pairs(data: Any) -> list[dict[str, Any]]:
  """What is read of a study's pairs; any other error than ours says it is damaged."""
  return [{
      "treated": _text(one["treated"]), "control": _text(one["control"]),
      "gain": float(one["gain"]),
      **({"bits_per_byte": {"gain": float(one["bits_per_byte"]["gain"])}}
         if "bits_per_byte" in one else {}),
      "transfer": _transfer(one.get("transfer"))}
          for one in foretold.equal(data["comparisons"])]


def _transfer(found: Any) -> dict[str, Any] | None:
  """What is read of the measures of a pair; layers stay in the study's own report."""
  if found is None:
    return None
  if "absent" in found:
    return {"absent": _text(found["absent"])}
  before, moved = found["before"], found["moved"]
  return {
      "before": before and {
          "before": {"across_tokens": _number(before["before"]["across_tokens"])},
          **{key: _number(before[key]) for key in (*foretold.MEASURES[1:], "copied")},
          "absent": {key: _text(before["absent"][key]) for key in foretold.MEASURES
                     if key in before["absent"]}},
      "moved": moved and {"layers": [], "mean": _number(moved["mean"]),
                          "absent": [*map(_text, moved["absent"])]}}


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f"{value!r:.40} is no text")
  return value


def _number(value: Any) -> float | None:
  return None if value is None else float(value)
