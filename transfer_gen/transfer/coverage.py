"""Checks how much of a target comes from its sources."""

from transfer_gen import errors
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import fold


def check(audit: audit_lib.Audit, least: float) -> None:
  """Checks that enough of the target comes from a source.

  Args:
    audit: The audit.
    least: The smallest its coverage that is accepted, from 0 to 1.

  Raises:
    errors.UserError: If its coverage is below `least`; the message lists the largest
      leaves that no source fills. Or if `least` is not from 0 to 1.
  """
  if not 0 <= least <= 1:
    raise errors.UserError(f"min_coverage is {least:g}, must be from 0 to 1.")
  share = audit_lib.coverage(audit)
  if share >= least:
    return
  missing = [(row, row.spec.size - filled)
             for row, filled in zip(audit.rows, audit_lib.filled(audit.rows))]
  # The number is a cell, so that leaves share a line only if they lack equally many.
  folded = [(times * int(each), times, name) for times, (name, each) in
            fold.fold([(row.name, str(lacks)) for row, lacks in missing if lacks])]
  folded.sort(key=lambda line: -line[0])
  # The largest ones show which rule is missing. All of them could fill a screen.
  lines = [f"  {name}{f' ({times} leaves)' if times > 1 else ''}: {lacks:,} params"
           for lacks, times, name in folded[:5]]
  more = [f"  and {len(folded) - 5} more"] if folded[5:] else []
  raise errors.UserError("\n".join([
      f"The plan fills {100 * share:.1f}% of the target's params from the source, and"
      f" min_coverage asks for {100 * least:g}%. The most that it does not fill:",
      *lines, *more, "Give these a source, or ask for less."]))
