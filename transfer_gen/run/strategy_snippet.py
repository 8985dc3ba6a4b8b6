"""What a strategy wrote, as Python for a config file."""

from transfer_gen import config as config_lib
from transfer_gen.transfer import suggest


def snippet(run: config_lib.Run) -> str:
  """What a strategy wrote, as Python to take over into a config file."""
  beside = [f"    adapters={run.adapters}"] if run.adapters else []
  beside += [f"    distill={run.distill}"] if run.distill else []
  return suggest.snippet(
      run.transfer, [*(["Beside it, in the Run:"] if beside else []), *beside],
      title=f"What the strategy {run.strategy.name} wrote.")
