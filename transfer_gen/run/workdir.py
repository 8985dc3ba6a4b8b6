"""What a run leaves: who owns a workdir, its records and its metrics."""

from collections.abc import Sequence
import io
import json
from typing import Any
import zipfile

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import environment
from transfer_gen.run import page
from transfer_gen.run import records
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import difference
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import table

PLAN, DATA = "plan.json", "data.json"
ARRAYS = "plan_arrays.npz"
_SHOWN = 20  # Lines of differing rows in a message.


def claim(
    assembled: assembled_lib.Assembled, workdir: epath.PathLike, min_coverage: float = 0.0
) -> None:
  """Makes the workdir this run's, or sees that it is.

  Raises:
    errors.UserError: If it belongs to another config, said key by key, or to another
      plan, said row by row; if the plan covers too little, see `write_audit`.
  """
  write_audit(assembled, workdir, min_coverage)
  workdir = epath.Path(workdir)
  if (workdir / codec.CONFIG).exists():
    return
  folder = workdir / tokenizers.FOLDER
  assembled.data.tokenizer.save(folder)
  for name, tokenizer in assembled.source_tokenizers.items():
    tokenizer.save(folder / (f"source_{name}" if name else "source"))
  whole.write_json(workdir / DATA, assembled.data.facts)
  whole.write_json(workdir / "environment.json", environment.describe())
  # Last: with it, the workdir is claimed.
  whole.write_json(workdir / codec.CONFIG, codec.run_to_json(assembled.run))


def write_audit(
    assembled: assembled_lib.Assembled, workdir: epath.PathLike, min_coverage: float = 0.0
) -> audit_lib.Audit:
  """Writes plan.json, with plan_arrays.npz where it has arrays, and the audit.

  Args:
    assembled: The run.
    workdir: Where to.
    min_coverage: Share of the target's params that must come from a source.

  Raises:
    errors.UserError: If the workdir is of another run, see `claim`, or less comes
      from a source; nothing is written then.
  """
  audit = _audit(assembled)
  audit_lib.check_coverage(audit, min_coverage)
  workdir = epath.Path(workdir)
  if (workdir / codec.CONFIG).exists():
    _compare(workdir, assembled, audit)
  workdir.mkdir(parents=True, exist_ok=True)
  if arrays := plan_lib.arrays(assembled.plan):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    whole.write_bytes(workdir / ARRAYS, buffer.getvalue())
  whole.write_json(workdir / PLAN, plan_lib.to_json(assembled.plan))  # After what it names.
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
    errors.UserError: If less does.
  """
  audit_lib.check_coverage(_audit(assembled), min_coverage)


def read_plan(workdir: epath.PathLike) -> plan_lib.TransferPlan:
  """The plan of the run in a workdir, with its arrays.

  Raises:
    errors.UserError: If there is none that this version of the package reads.
  """
  workdir = epath.Path(workdir)
  arrays = {}
  if (workdir / ARRAYS).exists():
    try:
      with np.load(io.BytesIO((workdir / ARRAYS).read_bytes()),
                   allow_pickle=False) as stored:
        arrays = dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
      raise errors.UserError(f"{workdir / ARRAYS}: is damaged: {error}.") from error
  plan = whole.read_json(workdir / PLAN, lambda data: plan_lib.from_json(data, arrays))
  if plan_lib.arrays(plan).keys() - arrays.keys():
    raise errors.UserError(f"{workdir / ARRAYS}: was changed after {PLAN} was written.")
  return plan


def write_report(workdir: epath.PathLike) -> None:
  """Writes report.html: the run's curve so far, and its audit."""
  workdir = epath.Path(workdir)
  whole.write_text(workdir / "report.html", page.run_page(
      workdir.name, audit_lib.read(workdir), records.read_metrics(workdir)))


def _compare(
    workdir: epath.Path, assembled: assembled_lib.Assembled, audit: audit_lib.Audit
) -> None:
  read = lambda name: json.loads((workdir / name).read_text())
  of_json = lambda data: json.loads(json.dumps(data))
  differ = list(_differences(
      of_json(codec.run_to_json(codec.read_run(workdir))),  # Older ones lack new fields.
      of_json(codec.run_to_json(assembled.run))))
  if differ:
    raise _of_another("config", workdir, differ)
  theirs = read_plan(workdir)
  if plan_lib.fingerprint(theirs) != audit.plan:
    rows = difference.rows(audit_lib.read(workdir), audit)
    more = [f"and {len(rows) - _SHOWN} more lines"] if rows[_SHOWN:] else []
    raise _of_another("plan", workdir, [*rows[:_SHOWN], *more] or [
        "No row differs, but what the plan says does:",
        *_differences(plan_lib.to_json(theirs), plan_lib.to_json(assembled.plan))])
  if differ := list(_differences(
      read(DATA)["fingerprint"], assembled.data.facts["fingerprint"],
      "data (the texts themselves)")):
    raise _of_another("config", workdir, differ)


def _of_another(
    what: str, workdir: epath.Path, lines: Sequence[str]
) -> errors.UserError:
  return errors.UserError(
      f"{workdir} belongs to another {what}:\n  " + "\n  ".join(lines)
      + f"\nTake another --workdir, or the {what} that it began with.")


def _differences(theirs: Any, mine: Any, prefix: str = ""):
  if isinstance(theirs, dict) and isinstance(mine, dict):
    for key in sorted(theirs.keys() | mine.keys()):
      yield from _differences(
          theirs.get(key), mine.get(key), f"{prefix}{key}.")
  elif theirs != mine:
    yield f"{prefix.rstrip('.')}: {theirs} there, {mine} here"


def _audit(assembled: assembled_lib.Assembled) -> audit_lib.Audit:
  return audit_lib.summarize(assembled.plan, assembled.rows, assembled.source_specs)
