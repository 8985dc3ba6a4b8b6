"""In which environments the trainings of a study began: commits, versions, devices."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transfer_gen.formats import whole
from transfer_gen.study import jobs as jobs_lib

_ALWAYS = ("jax", "flax", "optax")
# Named beside those only where trainings had several versions.
_OTHERS = ("jaxlib", "numpy", "orbax-checkpoint", "transfer_gen")
# Of a workdir without the file, whose training must not seem to be another's.
_UNKNOWN = {"python": "unknown", "machine": "unknown", "system": "unknown",
            "versions": {}, "devices": ["unknown"], "commit": None, "uncommitted": None}

Environments = Sequence[Mapping[str, Any]]  # As of `read`.


def read(jobs: Iterable[jobs_lib.Job]) -> list[dict[str, Any]]:
  """Returns the environments in which trainings began, each once.

  Returns:
    For each what `environment.describe` returned there, and the `names` of its runs.

  Raises:
    errors.UserError: If a file is damaged.
  """
  found: dict[str, dict[str, Any]] = {}
  for job in jobs:
    path = job.workdir / "environment.json"
    where = whole.read_json(path, _parse) if path.exists() else _UNKNOWN
    same = found.setdefault(str(where), {**where, "names": []})
    if job.name not in same["names"]:
      same["names"].append(job.name)
  return list(found.values())


def libraries(environments: Environments) -> str:
  """Returns the versions and devices of all trainings, with names where they differ."""
  version = lambda name: lambda one: one["versions"].get(name, "unknown")
  differ = [name for name in _OTHERS if len({*map(version(name), environments)}) > 1]
  named = [f"{name} {_each(environments, version(name))}"
           for name in (*_ALWAYS, *differ)]
  python = _each(environments, lambda one: one["python"])
  devices = _each(
      environments, lambda one: f"{one['devices'][0]} ({len(one['devices'])})")
  return f"Python {python}, {', '.join(named)}; {devices}"


def commits(environments: Environments) -> str:
  """Returns the commits of all trainings, with the names of runs if there are several.

  Behind a commit stands the hash of what had not been committed, if anything.
  """
  changed = lambda one: (
      f" with changes {one['uncommitted']}" if one["uncommitted"] else "")
  return _each(environments, lambda one: (
      f"commit {(one['commit'] or 'none')[:10]}{changed(one)}"))


def _each(
    environments: Environments, said: Callable[[Mapping[str, Any]], str]) -> str:
  """Returns what is said of all environments, or each with the runs that it is of."""
  names: dict[str, dict[str, None]] = {}
  for one in environments:
    names.setdefault(said(one), {}).update(dict.fromkeys(one["names"]))
  if len(names) == 1:
    return next(iter(names))
  return " and ".join(f"{what} ({', '.join(runs)})" for what, runs in names.items())


def _parse(data: Mapping[str, Any]) -> dict[str, Any]:
  return {key: data[key] for key in _UNKNOWN}
