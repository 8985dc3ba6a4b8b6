"""`transfer-gen study`: trains runs with their controls and compares them."""

import json

from transfer_gen.commands import flags
from transfer_gen.config import file as config_file
from transfer_gen.study import report
from transfer_gen.study import study as study_lib


def run(values: flags.Values) -> None:
  """Runs the study; the last line printed is its summary as JSON."""
  facts = study_lib.run(config_file.load_study(values.config), values.workdir)
  if values.results:
    report.write_section(
        values.results, "python -m transfer_gen study"
        f" --config={values.config} --workdir={values.workdir}", facts)
  print(json.dumps(facts["summary"]))
