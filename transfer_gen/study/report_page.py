"""The page that answers a study's question; it opens without a network."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from transfer_gen.run import page
from transfer_gen.study import report_csv
from transfer_gen.study import report_files
from transfer_gen.study import report_plots
from transfer_gen.study import report_rows
from transfer_gen.study import sentences

_LONGEST = 600  # Characters of a text in a sheet of samples.


def study_page(
    facts: Mapping[str, Any], curves: report_plots.Curves, folder: epath.PathLike
) -> str:
  """Returns what a study found as HTML.

  Args:
    facts: What `study.run` found. Paths are as seen from `folder`.
    curves: Lines of metrics, by the name of a run and by what distinguishes its
      trainings, such as their seed.
    folder: The folder that the page will lie in.

  Raises:
    errors.UserError: If a file of a training is damaged.
  """
  trainings = facts["trainings"]
  answer, alarms = sentences.answer(facts), sentences.alarms(facts)
  header, *rows = report_rows.runs(facts)
  # In the order of the rows: by run, and by seed.
  workdirs = {(one["run"], one["seed"]): one["workdir"] for one in trainings
              if one["role"] == "compared"}
  links = [report_files.links(workdirs[name, run["seed"]])
           for name, runs in facts["runs"].items() for run in runs]
  return page.render(
      "study.html", title=facts["question"], answer=answer, alarms=alarms,
      troubles=report_rows.troubles(facts), header=header, runs=list(zip(rows, links)),
      trainings_file=report_csv.TRAININGS, pairs_file=report_csv.PAIRS,
      losses=sentences.losses(facts), rates=sentences.rates(facts),
      verdicts=[line for line in sentences.verdicts(facts)
                if line not in (*answer, *alarms)],
      gains=report_plots.gains(facts), learning=report_plots.learning(facts, curves),
      of_sources=report_plots.of_sources(facts, curves),
      efficiency=report_plots.efficiency(facts),
      forgetting=report_plots.forgetting(facts, curves),
      transfer=report_rows.transfer(facts),
      costs=sentences.costs(facts), accounts=report_rows.accounts(facts),
      samples=[_sample(sample) for sample in report_rows.samples(facts)],
      drawings=report_files.drawings(facts, folder),
      audits=report_files.audits(trainings, folder),
      sources={one["run"]: report_files.links(one["workdir"]) for one in trainings
               if one["role"] == "source"},
      environments=report_rows.environments(facts),
      data=facts["data"], command=facts["command"],
      commands=report_rows.commands(facts, folder))


def _sample(sample: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns titles and texts of a sample, long ones cut."""
  shown = {"input": sample["prompt"], "reference": sample["reference"]}
  return [(name, text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")
          for name, text in (*shown.items(), *sample["texts"].items())]
