"""The versions and devices that a run was made with, for environment.json."""

from collections.abc import Mapping
import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from typing import Any

from etils import epath
import jax

from transfer_gen.formats import whole

FILE = "environment.json"  # In a workdir.

def describe() -> dict[str, Any]:
  """Returns versions of all packages, devices, the commit and uncommitted changes."""
  return dict(_describe())


def add(workdir: epath.PathLike, measured: Mapping[str, Any]) -> None:
  """Adds what the last call has measured to the description in a workdir."""
  path = epath.Path(workdir) / FILE
  if path.exists():
    found = whole.read_json(path, dict, "Delete it.")
    whole.write_json(path, {**found, "measured": dict(measured)})


# Reading the versions of hundreds of packages takes a tenth of a second, and the
# trainings of a study or a search run in one process, whose code and packages stay.
@functools.cache
def _describe() -> dict[str, Any]:
  difference = _git("diff", "HEAD")
  return {
      "python": platform.python_version(), "machine": platform.machine(),
      "system": platform.platform(),
      "versions": {package.name: package.version for package in sorted(
          importlib.metadata.distributions(), key=lambda package: package.name)},
      "devices": [str(device) for device in jax.devices()],
      "commit": _git("rev-parse", "HEAD").strip() or None,
      "uncommitted": hashlib.sha256(difference.encode()).hexdigest()[:16]
                     if difference else None,
  }


# In the folder of the code, because a run may be started from any other repository.
def _git(*args: str) -> str:
  """Returns what git prints for the running code; empty outside a repository."""
  folder = epath.Path(__file__).parent
  try:
    return subprocess.run(
        ("git", *args), cwd=folder, capture_output=True, text=True, check=True,
    ).stdout
  except (OSError, subprocess.CalledProcessError):
    return ""
