"""Repeats the compared runs of a study with several shares of their training data."""

import copy
import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors


def expand(study: config_lib.Study) -> config_lib.Study:
  """Returns the study in which `Study.fractions` are runs and pairs of their own.

  Each run of a pair becomes one for each share, `moved_10` for a tenth of what `moved`
  trains on, and each pair one for each share. Pairs of the largest share come first:
  the first pair of a study decides what its summary tells and which run is its best.
  All other runs are sources, and stay one.

  Args:
    study: A study whose names are consistent; it is not changed.

  Raises:
    errors.UserError: If a run has a name that another one would get.
  """
  shares = sorted({*study.fractions}, reverse=True)
  if not shares:
    return study
  compared = dict.fromkeys(name for pair in study.pairs for name in pair)
  runs = {name: run for name, run in study.runs.items() if name not in compared}
  for name in compared:
    for share in shares:
      named = _named(name, share)
      if named in runs:
        raise errors.UserError(
            f"run {named!r} has the name that {name!r} would get with the share"
            f" {share:g} of its training data, of fractions={study.fractions!r}. Give"
            " one of them another name, or leave the share out.")
      runs[named] = _with_share(study.runs[name], share)
  pairs = tuple((_named(treated, share), _named(control, share))
                for share in shares for treated, control in study.pairs)
  return dataclasses.replace(study, runs=runs, pairs=pairs, fractions=())


def _named(name: str, share: float) -> str:
  """The name of a run with a share of its data, in percent."""
  return f"{name}_{100 * share:g}"


def _with_share(run: config_lib.Run, share: float) -> config_lib.Run:
  run = copy.deepcopy(run)  # Configs are mutable, and one run becomes several.
  # Six digits, as a tenth of 0.7 is 0.07 to people.
  run.data.fraction = float(f"{run.data.fraction * share:.6g}")
  return run
