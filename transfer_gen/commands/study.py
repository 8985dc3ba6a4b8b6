"""`transfer-gen study`: trains runs with their controls and compares them."""

import dataclasses
import json
import shlex
import sys
from typing import Any

from transfer_gen.commands import flags
from transfer_gen.config import validate
from transfer_gen.study import dry_run
from transfer_gen.study import from_run
from transfer_gen.study import report
from transfer_gen.study import study as study_lib


def run(values: flags.Values) -> None:
  """Runs the study; the last line printed is its summary as JSON.

  Raises:
    SystemExit: With code 1 if a run has failed. One that diverged at a learning rate is
      no failure as long as each pair has a result.
  """
  # The config is a run where the file has no study: that run is compared with scratch.
  study = values.study or from_run.study(values.config)
  if values.seeds:
    study = dataclasses.replace(study, seeds=tuple(range(values.seeds)))
  given: dict[str, Any] = {name: value for name, value in (
      ("budget", values.budget), ("equal", values.equal),
      ("fractions", _numbers(values.fractions))) if value}
  if given:
    study = dataclasses.replace(study, **given)
    validate.check(study, "study")
  if values.dry_run:
    print(dry_run.describe(study, values.workdir, values.only))
    return
  facts = study_lib.run(
      study, values.workdir, values.only, values.force,
      shlex.join(["transfer-gen", "study", *values.words]), values.jobs)
  if "summary" in facts:
    _show(facts, values.workdir)
  if values.results and "summary" in facts:
    report.write_section(
        values.results, "python -m transfer_gen study"
        f" --config={values.given_config} --workdir={values.workdir}", facts)
  print(json.dumps(facts.get("summary", {})), flush=True)
  _end(facts)


def _numbers(text: str) -> tuple[float | str, ...]:
  """Returns the numbers between commas; what is none stays a text and is refused."""
  found: list[float | str] = []
  for part in filter(None, text.split(",")):
    try:
      found.append(float(part))
    except ValueError:
      found.append(part)
  return tuple(found)


def _show(facts: dict[str, Any], workdir: str) -> None:
  """Prints what was found, and where it lies."""
  print(report.study_text(facts))
  metric = facts["judged_by"].replace("bits_per_byte", "loss")
  best = f"{workdir}/{facts['summary']['best']}"
  print(f"best run by validation {metric}: {best}, also at {workdir}/best")
  print(f"report: {workdir.rstrip('/')}/report.html")


def _end(facts: dict[str, Any]) -> None:
  """Says which pairs have no result, and exits with 1 if that is a failure."""
  for treated, control in facts["missing"]:
    print(f"transfer-gen: {treated} against {control} has no result: "
          + _why(facts, (treated, control)), file=sys.stderr)
  if any(facts["missing"] or not one["diverged"] for one in facts["failures"]):
    sys.exit(1)


def _why(facts: dict[str, Any], pair: tuple[str, str]) -> str:
  failed = [one["run"] for one in facts["failures"] if one["name"] in pair]
  return f"{'; '.join(failed)} failed." if failed else "not all its runs are trained."
