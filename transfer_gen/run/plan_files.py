"""The plan and the audit of a run, as files in its workdir."""

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import ownership
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import coverage
from transfer_gen.transfer import table

Assembled = assembled_lib.Assembled


def write_audit(
    assembled: Assembled, workdir: epath.PathLike, min_coverage: float = 0.0
) -> audit_lib.Audit:
  """Writes plan.json, plan_arrays.npz if the plan has arrays, and the audit.

  Args:
    assembled: The run.
    workdir: Where to write.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].

  Raises:
    errors.UserError: If the workdir belongs to another run, or less of the target comes
      from a source; nothing is written then.
  """
  audit = _audit(assembled)
  coverage.check(audit, min_coverage)
  workdir = epath.Path(workdir)
  # Before anything is written: the files there belong to the other run.
  if ownership.is_claimed(workdir):
    ownership.check(workdir, assembled, audit)
  workdir.mkdir(parents=True, exist_ok=True)
  ownership.write_plan(workdir, assembled.plan)
  whole.write_json(workdir / audit_lib.FILE, audit_lib.to_json(audit))
  whole.write_text(workdir / "audit.txt", table.full(audit))
  return audit


def check_owner(assembled: Assembled, workdir: epath.PathLike) -> None:
  """Checks that a claimed workdir belongs to a run; writes nothing.

  Raises:
    errors.UserError: If it belongs to another one; lists what differs.
  """
  ownership.check(epath.Path(workdir), assembled, _audit(assembled))


def check_coverage(assembled: Assembled, min_coverage: float) -> None:
  """Checks how much of the target comes from a source.

  Args:
    assembled: The run.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].

  Raises:
    errors.UserError: If the share is smaller.
  """
  coverage.check(_audit(assembled), min_coverage)


def _audit(assembled: Assembled) -> audit_lib.Audit:
  return audit_lib.summarize(
      assembled.plan, assembled.rows, assembled.source_specs, assembled.constants)
