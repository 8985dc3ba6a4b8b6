"""The rows of what a study found, for a terminal, for Markdown and for a page."""

from collections.abc import Mapping
import os
import shlex
from typing import Any

from etils import epath

from transfer_gen.study import foretold_page
from transfer_gen.study import sentences
from transfer_gen.study import task_metrics

Facts = Mapping[str, Any]  # What `study.run` returns.
transfer = foretold_page.tables  # Beside the other rows.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "transfer_gen")


def runs(facts: Facts) -> list[tuple[str, ...]]:
  """Returns a header, and a row for each compared run and seed, in their order."""
  metrics = task_metrics.names(facts)
  rows: list[tuple[str, ...]] = [(
      "run", "seed", "lr", "best step", "validation", "test", "bits/byte", *metrics,
      "train tokens", "seconds")]
  for name, seeds in facts["runs"].items():
    rows += [(name, str(run["seed"]), f"{run['lr']:g}", str(run["step"]),
              f"{run['validation_loss']:.4f}", f"{run['loss']:.4f}",
              f"{run['bits_per_byte']:.3f}" if "bits_per_byte" in run else "-",
              *(task_metrics.cell(run, metric) for metric in metrics),
              f"{run['train_tokens']:,}",
              f"{run['train_seconds']:.0f}") for run in seeds]
  return rows


def accounts(facts: Facts) -> list[tuple[str, ...]]:
  """Returns what each run cost, mean over seeds; empty if that was not asked for."""
  rows = []
  for name, seeds in facts["runs"].items():
    found = [run["accounts"] for run in seeds if "accounts" in run]
    if found:
      mean = lambda key, found=found: sum(one[key] for one in found) / len(found)
      cells = [f"{mean('learning'):,.0f}", f"{mean('slot_bytes') / 2**20:.2f}",
               sentences.digits(mean("gflops_a_step")),
               sentences.digits(mean("gflops") + mean("search_gflops"))]
      if all("forgetting" in one for one in found):
        cells += [f"{mean(key):.3f}" for key in ("before", "after", "forgetting")]
      loss = sum(run["loss"] for run in seeds) / len(seeds)
      rows.append((name, f"{loss:.4f}", *cells))
  header = ("mean over seeds", "test", "learning params", "state, MB", "GFLOPs a step",
            "GFLOPs, search in it", "source before, bits/byte", "after", "forgetting")
  return [header[:max(map(len, rows))], *(
      row + ("",) * (max(map(len, rows)) - len(row)) for row in rows)] if rows else []


def troubles(facts: Facts) -> list[str]:
  """Returns what has no result, what failed, and what could not be shown."""
  lines = [f"{treated} against {control}: no result."
           for treated, control in facts.get("missing", ())]
  for failure in facts.get("failures", ()):
    lines.append("\n  ".join([f"{failure['run']} failed:", *failure["lines"]]))
  lines += facts.get("notes", ())
  return lines


def environments(facts: Facts) -> list[dict[str, Any]]:
  """Returns where compared runs and their sources were trained, each place once.

  Returns:
    For each: `names` of the runs, `rows` of what matters most, and `packages`, all
    versions.
  """
  found = []
  for one in facts["environments"]:
    versions, devices = one["versions"], one["devices"]
    changed = f", with changes {one['uncommitted']}" if one["uncommitted"] else ""
    rows = [["Python", one["python"]], ["system", one["system"]],
            ["machine", one["machine"]], ["devices", f"{len(devices)}: {devices[0]}"],
            ["commit", f"{one['commit'] or 'none'}{changed}"]]
    rows += [[name, versions[name]] for name in _PACKAGES if name in versions]
    found.append({"names": one["names"], "rows": rows, "packages": ", ".join(
        f"{name} {version}" for name, version in sorted(versions.items()))})
  return found


def commands(facts: Facts, folder: epath.PathLike) -> list[tuple[str, str]]:
  """Returns a header, and the command behind the numbers of each compared run and seed.

  Args:
    facts: What was found; paths are as seen from `folder`.
    folder: The folder of the report.
  """
  rows = [("numbers", "command")]
  for one in facts["trainings"]:
    if one["role"] != "compared":
      continue
    name = f"{one['run']}, seed {one['seed']}"
    # Only a study trains; `compare` takes what others have trained.
    if " study " in facts["command"]:
      only = shlex.quote(f"{one['run']}/seed_{one['seed']}")
      rows.append((f"{name}: training and validation",
                   f"{facts['command']} --only={only}"))
    workdir = shlex.quote(os.path.normpath(epath.Path(folder) / one["workdir"]))
    rows.append((f"{name}: test", f"transfer-gen evaluate --workdir={workdir}"))
  return rows


def samples(facts: Facts) -> list[dict[str, Any]]:
  """Returns each prompt with what every run of the first seed that read it answered."""
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for name, seeds in facts["runs"].items():
    for sample in seeds[0]["samples"]:
      one = found.setdefault(
          (sample["prompt"], sample["reference"]), {**sample, "texts": {}})
      one["texts"][name] = sample["text"]
  return list(found.values())
