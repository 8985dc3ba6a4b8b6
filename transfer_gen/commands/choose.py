"""`transfer-gen choose`: ranks sources for a target, and writes the winner's config."""

import json

from etils import epath

from transfer_gen import processes
from transfer_gen.commands import flags
from transfer_gen.study import choosing


def run(values: flags.Values) -> None:
  """Chooses a source; the last line printed is what was chosen, as JSON."""
  processes.refuse("`choose`")
  facts = choosing.choose(
      values.config, values.given_config, values.workdir,
      [path for given in values.sources or () for path in _split(given)],
      values.steps)
  print(choosing.text(facts))
  print(f"config: {values.workdir.rstrip('/')}/chosen.py")
  print(json.dumps({
      "winner": facts["winner"], "helps": facts["helps"], "order": facts["order"],
      "path": facts["evidence"][facts["winner"]]["path"],
      "unit": facts["unit"], "losses": {
          name: one["after" if values.steps else "before"]["across_tokens"]
          for name, one in facts["evidence"].items()}}), flush=True)


def _split(given: str) -> list[str]:
  """Returns the paths of a flag that are joined by commas, or one that has commas."""
  return [given] if epath.Path(given).expanduser().exists() else given.split(",")
