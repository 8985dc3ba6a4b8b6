"""The texts that `transfer-gen plan` prints."""

import os
import sys

from transfer_gen.run import strategies
from transfer_gen.run import strategy_snippet
from transfer_gen.study import candidates
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import difference
from transfer_gen.transfer import table


def overview(
    asked: strategies.Run, planned: strategies.Run, audit: audit_lib.Audit, workdir: str
) -> str:
  """Returns the audit with similar leaves folded, and what a strategy wrote.

  Args:
    asked: The run as the user configured it.
    planned: The run as it was assembled, with the plan that its strategy wrote.
    audit: The audit of `planned`.
    workdir: Where the whole audit was written.
  """
  # https://no-color.org: any value that is not empty turns colors off.
  colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
  parts = [table.folded(audit, colored)]
  if asked.strategy.name:
    parts.append(strategy_snippet.snippet(planned))
  if asked.strategy.name == strategies.AUTO and planned.strategy == candidates.COMMON:
    parts.append(
        "The strategy `auto` has not chosen yet: `train` searches first. All the"
        " strategies that it tries start from what is shown here.")
  parts += [f"Every leaf: {workdir}/audit.txt",
            f"The two trees side by side: {workdir}/report.html"]
  return "\n".join(parts)


def differences(there: audit_lib.Audit, here: audit_lib.Audit, workdir: str) -> str:
  """Returns the rows in which a plan differs from that of another workdir."""
  return "\n".join(difference.rows(there, here) or [f"No row differs from {workdir}."])


def origins(audit: audit_lib.Audit, limit: int) -> str:
  """Returns where `limit` new entries of each mapped axis start."""
  return "\n" + table.origins(audit, limit).rstrip("\n")
