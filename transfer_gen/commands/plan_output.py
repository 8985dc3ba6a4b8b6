"""The text that `transfer-gen plan` prints."""

import os
import sys

from transfer_gen import config as config_lib
from transfer_gen.commands import flags
from transfer_gen.run import strategies
from transfer_gen.study import auto
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import difference
from transfer_gen.transfer import table


def text(
    values: flags.Values, planned: config_lib.Run, audit: audit_lib.Audit,
    other: audit_lib.Audit | None,
) -> str:
  """Returns the audit, or its differences from another one; then the origins.

  Args:
    values: The flags of `plan`.
    planned: The run as it was assembled, with the plan that its strategy wrote.
    audit: The audit of `planned`.
    other: The audit that `--diff` names. If None, the whole audit is returned.
  """
  parts = [*(_overview(values, planned, audit) if other is None else
             difference.rows(other, audit) or [f"No row differs from {values.diff}."])]
  if values.origins:
    parts += ["", table.origins(audit, values.origins).rstrip("\n")]
  return "\n".join(parts)


def _overview(
    values: flags.Values, planned: config_lib.Run, audit: audit_lib.Audit
) -> list[str]:
  """The audit with similar leaves folded, and what a strategy wrote."""
  # https://no-color.org: any value that is not empty turns colors off.
  colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
  parts = [table.folded(audit, colored)]
  asked = values.config.strategy.name
  if asked:
    parts.append(strategies.told(planned))
  if asked == strategies.AUTO and planned.strategy == auto.COMMON:
    parts.append(
        "The strategy `auto` has not chosen yet: `train` searches first. All the"
        " strategies that it tries start from what is shown here.")
  parts.append(f"Every leaf: {values.workdir}/audit.txt; the two trees side by side:"
               f" {values.workdir}/report.html")
  return parts
