"""Whether a workdir belongs to the run that is about to resume in it."""

from collections.abc import Mapping, Sequence
import io
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import difference
from transfer_gen.transfer import plan as plan_lib

PLAN, ARRAYS, DATA = "plan.json", "plan_arrays.npz", codec.DATA
_SHOWN = 20  # Lines of differing rows in a message.


def is_claimed(workdir: epath.PathLike) -> bool:
  """Whether a workdir belongs to a run already."""
  # `workdir.claim` writes it last, so all else that it writes is there as well.
  return (epath.Path(workdir) / codec.CONFIG).exists()


def claim(workdir: epath.Path, assembled: assembled_lib.Assembled) -> None:
  """Makes a workdir belong to a run, by writing and sealing its config.json."""
  whole.write_json(workdir / codec.CONFIG, codec.run_to_json(assembled.run))
  # What the answers of the run depend on. Plan and audit are compared with those of the
  # run when it goes on, and are then written again.
  whole.seal(workdir, codec.CONFIG, DATA)


def check(
    workdir: epath.Path, assembled: assembled_lib.Assembled, audit: audit_lib.Audit
) -> None:
  """Checks that a workdir belongs to a run.

  Args:
    workdir: A workdir that belongs to some run.
    assembled: The run.
    audit: Its audit.

  Raises:
    errors.UserError: If its config, plan or texts are others; lists what differs.
  """
  # JSON has no tuples: after a round trip, both sides hold lists and can be compared.
  of_json = lambda data: json.loads(json.dumps(data))
  differ = list(_differences(
      # Read and written again: older files lack new fields.
      of_json(codec.run_to_json(codec.read_run(workdir))),
      of_json(codec.run_to_json(assembled.run))))
  if differ:
    raise _of_another("config", workdir, differ)
  # Config first, then the plan, then the texts: a changed config often changes the
  # other two, and the message should give the cause.
  theirs = read_plan(workdir)
  if plan_lib.fingerprint(theirs) != audit.plan:
    rows = difference.rows(audit_lib.read(workdir), audit)
    more = [f"and {len(rows) - _SHOWN} more lines"] if rows[_SHOWN:] else []
    raise _of_another("plan", workdir, [*rows[:_SHOWN], *more] or [
        "No row differs, but what the plan says does:",
        *_differences(plan_lib.to_json(theirs), plan_lib.to_json(assembled.plan))])
  if differ := list(_differences(
      whole.read_json(workdir / DATA, lambda data: data["fingerprint"]),
      assembled.data.facts["fingerprint"],
      "data (the texts themselves)")):
    raise _of_another("config", workdir, differ)


def write_plan(workdir: epath.Path, plan: plan_lib.TransferPlan) -> None:
  """Writes plan.json, and plan_arrays.npz if the plan has arrays."""
  if arrays := plan_lib.arrays(plan):
    whole.write_bytes(workdir / ARRAYS, _npz(arrays))
  # After the arrays that it names.
  whole.write_json(workdir / PLAN, plan_lib.to_json(plan))
  # An earlier plan's arrays go only when the plan that named them is gone.
  if not arrays:
    (workdir / ARRAYS).unlink(missing_ok=True)


def read_plan(workdir: epath.PathLike) -> plan_lib.TransferPlan:
  """Reads the plan of the run in a workdir, with its arrays.

  Raises:
    errors.UserError: If there is no plan that this version of the package can read.
  """
  workdir = epath.Path(workdir)
  arrays = {}
  if (workdir / ARRAYS).exists():
    arrays = whole.read_npz(workdir / ARRAYS)
  plan = whole.read_json(workdir / PLAN, lambda data: plan_lib.from_json(data, arrays))
  if plan_lib.arrays(plan).keys() - arrays.keys():
    raise errors.UserError(f"{workdir / ARRAYS}: was changed after {PLAN} was written.")
  return plan


def _of_another(
    what: str, workdir: epath.Path, lines: Sequence[str]
) -> errors.UserError:
  return errors.UserError(
      f"{workdir} belongs to another {what}:\n  " + "\n  ".join(lines)
      + f"\nTake another --workdir, or the {what} that it began with.")


# All of them and not the first, so that one call shows everything that has changed.
def _differences(theirs: Any, mine: Any, prefix: str = ""):
  if isinstance(theirs, dict) and isinstance(mine, dict):
    for key in sorted(theirs.keys() | mine.keys()):
      yield from _differences(
          theirs.get(key), mine.get(key), f"{prefix}{key}.")
  elif theirs != mine:
    yield f"{prefix.rstrip('.')}: {theirs} there, {mine} here"


def _npz(arrays: Mapping[str, Any]) -> bytes:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()
