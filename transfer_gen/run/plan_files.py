"""The plan and the audit of a run, as files in its workdir."""

from collections.abc import Mapping
import io
from typing import Any

from etils import epath
import numpy as np

from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import ownership
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import table

PLAN, ARRAYS = ownership.PLAN, ownership.ARRAYS


def write_audit(
    assembled: assembled_lib.Assembled, workdir: epath.PathLike,
    min_coverage: float = 0.0,
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
  audit_lib.check_coverage(audit, min_coverage)
  workdir = epath.Path(workdir)
  # Before anything is written: the files there belong to the other run.
  if ownership.is_claimed(workdir):
    ownership.check(workdir, assembled, audit)
  workdir.mkdir(parents=True, exist_ok=True)
  if arrays := plan_lib.arrays(assembled.plan):
    whole.write_bytes(workdir / ARRAYS, _npz(arrays))
  # After the arrays that it names.
  whole.write_json(workdir / PLAN, plan_lib.to_json(assembled.plan))
  # An earlier plan's arrays go only when the plan that named them is gone.
  if not arrays:
    (workdir / ARRAYS).unlink(missing_ok=True)
  whole.write_json(workdir / audit_lib.FILE, audit_lib.to_json(audit))
  whole.write_text(workdir / "audit.txt", table.full(audit))
  return audit


def check_coverage(assembled: assembled_lib.Assembled, min_coverage: float) -> None:
  """Checks how much of the target comes from a source.

  Args:
    assembled: The run.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].

  Raises:
    errors.UserError: If the share is smaller.
  """
  audit_lib.check_coverage(_audit(assembled), min_coverage)


def _npz(arrays: Mapping[str, Any]) -> bytes:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def _audit(assembled: assembled_lib.Assembled) -> audit_lib.Audit:
  return audit_lib.summarize(assembled.plan, assembled.rows, assembled.source_specs)
