"""`transfer-gen plan`: shows what a transfer does before anything is trained."""

from transfer_gen.commands import flags
from transfer_gen.commands import plan_output
from transfer_gen.run import audited
from transfer_gen.run import first_plan
from transfer_gen.study import auto
from transfer_gen.transfer import audit as audit_lib


def run(values: flags.Values) -> None:
  """Writes plan and audit into the workdir and prints them; or suggests a plan."""
  if values.suggest:
    print(first_plan.snippet(values.config, values.workdir), end="")
    return
  # Read before the run is assembled, which may tokenize a large data set first.
  other = audit_lib.read(values.diff) if values.diff else None
  planned, audit, devices = audited.write(
      auto.decided(values.config, values.workdir), values.workdir, values.min_coverage)
  if other is None:
    print(plan_output.overview(values.config, planned, audit, values.workdir))
  else:
    print(plan_output.differences(other, audit, values.diff))
  if values.origins:
    print(plan_output.origins(audit, values.origins))
  if devices:
    print("\n".join(["", *devices]))
