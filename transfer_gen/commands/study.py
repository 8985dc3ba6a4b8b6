"""`transfer-gen study`: trains runs with their controls and compares them."""

import dataclasses
import json

from transfer_gen.commands import flags
from transfer_gen.config import file as config_file
from transfer_gen.study import from_run
from transfer_gen.study import report
from transfer_gen.study import study as study_lib


def run(values: flags.Values) -> None:
  """Runs the study; the last line printed is its summary as JSON."""
  # The config is a run where the file has no study: that run is compared with scratch.
  study = (config_file.load_study(values.config) if isinstance(values.config, str)
           else from_run.study(values.config))
  if values.seeds:
    study = dataclasses.replace(study, seeds=tuple(range(values.seeds)))
  facts = study_lib.run(study, values.workdir)
  if values.results:
    report.write_section(
        values.results, "python -m transfer_gen study"
        f" --config={values.given_config} --workdir={values.workdir}", facts)
  print(json.dumps(facts["summary"]))
