"""What a search leaves in a workdir: its losses so far, its evidence, its decision."""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from transfer_gen import best_link
from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.study import search_page

FOLDER = "auto"  # In a workdir: the candidates, and what was decided.
DECISION, LOSSES = "decision.json", "losses.json"


def read(workdir: epath.PathLike) -> dict[str, Any]:
  """Returns what a search in a workdir decided; empty if none has."""
  return _read(epath.Path(workdir) / FOLDER / DECISION, _decided)


def begun(workdir: epath.PathLike, budget: int) -> dict[str, Any]:
  """Returns what `write_losses` wrote in a search that was cut; empty if none was.

  Raises:
    errors.UserError: If that search has another budget: losses at other stops could not
      be compared with these.
  """
  folder = epath.Path(workdir) / FOLDER
  found = _read(folder / LOSSES, _begun)
  if found.get("budget", budget) != budget:
    raise errors.UserError(
        f"{folder}: a search with strategy.budget={found['budget']} began there, and"
        f" now it is {budget}. Take another --workdir, or that budget.")
  return found


def write_losses(workdir: epath.PathLike, facts: Mapping[str, Any]) -> None:
  """Writes budget, losses and seconds so far, to resume from."""
  whole.write_json(epath.Path(workdir) / FOLDER / LOSSES, facts)


def write(workdir: epath.PathLike, facts: Mapping[str, Any]) -> None:
  """Writes the evidence, and the decision last."""
  folder = epath.Path(workdir) / FOLDER
  text = search_page.text(facts)
  whole.write_text(folder / "report.txt", text)
  whole.write_text(folder / "report.html", search_page.page(facts))
  print(text, flush=True)
  for name in facts["losses"].keys() - {facts["winner"]}:
    (folder / name / "checkpoints").rmtree(missing_ok=True)  # Their metrics stay.
  whole.write_json(folder / DECISION, facts)
  whole.seal(folder, DECISION)


def mark_best(workdir: epath.PathLike) -> None:
  """Makes the search's link `best` name the run, which the winner became."""
  best_link.write(epath.Path(workdir) / FOLDER, epath.Path(workdir))


def _read(path: epath.Path, parse: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
  return whole.read_json(path, parse) if path.exists() else {}


def _losses(losses: Mapping[str, Mapping[str, float]]) -> None:
  """Raises a TypeError or ValueError for what are no losses by candidate and step."""
  for found in losses.values():
    for step, loss in found.items():
      if int(step) < 0 or not isinstance(loss, (int, float)):
        raise ValueError(f"{step}: {loss} is no loss of a step")


def _decided(facts: Any) -> dict[str, Any]:
  _losses(facts["losses"])
  facts["losses"][facts["winner"]]  # One of the candidates, or a KeyError.
  return facts


def _begun(facts: Any) -> dict[str, Any]:
  _losses(facts["losses"])
  return {"budget": facts["budget"], "losses": facts["losses"],
          "seconds": float(facts.get("seconds", 0.0))}
