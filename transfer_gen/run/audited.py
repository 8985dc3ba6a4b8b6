"""The audit of a run, written before anything is trained."""

from etils import epath

from transfer_gen.run import assemble
from transfer_gen.run import page
from transfer_gen.run import plan_files
from transfer_gen.run import reader
from transfer_gen.transfer import audit as audit_lib


def write(
    run: reader.Run, workdir: epath.PathLike, min_coverage: float
) -> tuple[reader.Run, audit_lib.Audit]:
  """Assembles a run and writes its plan, audit and report into a workdir.

  Args:
    run: Config of the run.
    workdir: Where to write; a tokenizer that was saved there is used again.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].

  Returns:
    The run with all that a strategy wrote, and the audit.

  Raises:
    errors.UserError: If the run does not fit, or the workdir belongs to another run.
  """
  assembled = assemble.build(run, workdir)
  print("\n".join([*assembled.inputs.notes, ""]), end="")
  audit = plan_files.write_audit(assembled, workdir, min_coverage)
  page.write(workdir)
  return assembled.run, audit
