"""The audit of a run, written before anything is trained."""

from etils import epath

from transfer_gen.run import assemble
from transfer_gen.run import device_table
from transfer_gen.run import page
from transfer_gen.run import plan_files
from transfer_gen.run import reader
from transfer_gen.transfer import audit as audit_lib


def write(
    run: reader.Run, workdir: epath.PathLike, min_coverage: float
) -> tuple[reader.Run, audit_lib.Audit, list[str]]:
  """Assembles a run and writes its plans, audit and report into a workdir.

  Args:
    run: Config of the run.
    workdir: Where to write; a tokenizer that was saved there is used again.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].

  Returns:
    The run with all that a strategy wrote, the audit, and the lines of what the run
    takes of its devices.

  Raises:
    errors.UserError: If the run or its devices do not fit, or the workdir belongs to
      another run.
  """
  assembled = assemble.build(run, workdir)
  print("\n".join([*assembled.inputs.notes, ""]), end="")
  audit = plan_files.write_audit(assembled, workdir, min_coverage)
  devices = device_table.write(assembled, workdir)
  page.write(workdir)
  return assembled.run, audit, devices
