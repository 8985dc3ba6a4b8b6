"""What a run leaves: who owns a workdir, its records and its metrics."""

from collections.abc import Mapping, Sequence
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from typing import Any

from etils import epath
import jax
import tensorboardX

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.train import setup as setup_lib
from transfer_gen.transfer import audit
from transfer_gen.transfer import plan as plan_lib

CONFIG, PLAN, DATA = "config.json", "plan.json", "data.json"
METRICS = "metrics.jsonl"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
             "tensorflow-datasets", "tokenizers", "numpy", "transfer_gen")


def claim(setup: setup_lib.Setup, workdir: epath.PathLike) -> None:
  """Makes the workdir this run's, or sees that it is.

  Raises:
    errors.UserError: If it belongs to another config or plan; says key by key
      what differs.
  """
  write_audit(setup, workdir)
  workdir = epath.Path(workdir)
  if (workdir / CONFIG).exists():
    return
  folder = workdir / setup_lib.TOKENIZER
  setup.data.tokenizer.save(folder)
  for name, tokenizer in setup.source_tokenizers.items():
    tokenizer.save(folder / (f"source_{name}" if name else "source"))
  write_json(workdir / DATA, setup.data.facts)
  write_json(workdir / "environment.json", environment())
  # Last: with it, the workdir is claimed.
  write_json(workdir / CONFIG, config_lib.to_json(setup.run))


def write_audit(setup: setup_lib.Setup, workdir: epath.PathLike) -> str:
  """Writes plan.json, audit.txt and audit.json; returns the text.

  Raises:
    errors.UserError: If the workdir is of another run, see `claim`.
  """
  workdir = epath.Path(workdir)
  if (workdir / CONFIG).exists():
    _compare(workdir, setup)
  workdir.mkdir(parents=True, exist_ok=True)
  told = setup.plan, setup.rows, setup.source_specs
  text = audit.text(*told)
  write_json(workdir / PLAN, plan_lib.to_json(setup.plan))
  write_json(workdir / "audit.json", audit.to_json(*told))
  write_text(workdir / "audit.txt", text)
  return text


def read_run(workdir: epath.PathLike) -> config_lib.Run:
  """The config of the run in a workdir.

  Raises:
    errors.UserError: If no run is there.
  """
  path = epath.Path(workdir) / CONFIG
  if not path.exists():
    raise errors.UserError(
        f"{workdir}: not the workdir of a run: it has no {CONFIG}. Train there first.")
  return config_lib.from_json(json.loads(path.read_text()))


def environment() -> dict[str, Any]:
  """Versions, devices, the git commit and a hash of what was not committed."""
  versions = {}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  difference = _git("diff", "HEAD")
  return {
      "python": platform.python_version(), "machine": platform.machine(),
      "versions": versions,
      "devices": [str(device) for device in jax.devices()],
      "commit": _git("rev-parse", "HEAD").strip() or None,
      "uncommitted": hashlib.sha256(difference.encode()).hexdigest()[:16]
                     if difference else None,
  }


def write_json(path: epath.Path, data: Any) -> None:
  """Writes JSON whole or not at all."""
  write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  partial = path.parent / f"{path.name}.partial"
  partial.write_text(text)
  partial.replace(path)


class MetricsWriter:
  """metrics.jsonl, one object a line, and TensorBoard events beside it."""

  def __init__(self, workdir: epath.PathLike, step: int):
    """Goes on after `step`: lines of later steps, of a run that was cut, go."""
    self._path = epath.Path(workdir) / METRICS
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = self._path.open("a")
    self._events = tensorboardX.SummaryWriter(
        str(epath.Path(workdir) / "tensorboard"), purge_step=step + 1)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Adds one line."""
    self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
    self._file.flush()
    for name, value in metrics.items():
      self._events.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    """Writes what is left."""
    self._file.close()
    self._events.close()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """The complete lines of a run's metrics, in order."""
  path = epath.Path(workdir) / METRICS
  if not path.exists():
    return []
  lines = path.read_text().split("\n")[:-1]  # A killed run may cut its last line.
  return [json.loads(line) for line in lines]


def add_samples(
    workdir: epath.PathLike, prompts: Sequence[str], texts: Sequence[str], **more
) -> list[dict[str, str]]:
  """Adds lines to samples.jsonl; `more` holds further columns of as many entries."""
  lines = [{"prompt": prompt, "text": text,
            **{name: values[i] for name, values in more.items()}}
           for i, (prompt, text) in enumerate(zip(prompts, texts))]
  path = epath.Path(workdir) / "samples.jsonl"
  with path.open("a") as file:
    file.writelines(json.dumps(line) + "\n" for line in lines)
  return lines


def _compare(workdir: epath.Path, setup: setup_lib.Setup) -> None:
  read = lambda name: json.loads((workdir / name).read_text())
  of_json = lambda data: json.loads(json.dumps(data))
  differ = list(_differences(
      read(CONFIG), of_json(config_lib.to_json(setup.run))))
  if not differ:
    differ = [
        *_differences(read(PLAN), plan_lib.to_json(setup.plan), "transfer."),
        *_differences(read(DATA)["fingerprint"], setup.data.facts["fingerprint"],
                      "data (the texts themselves)")]
  if differ:
    raise errors.UserError(
        f"{workdir} belongs to another config:\n  " + "\n  ".join(differ)
        + "\nTake another --workdir, or the config that it began with.")


def _differences(theirs: Any, mine: Any, prefix: str = ""):
  if isinstance(theirs, dict) and isinstance(mine, dict):
    for key in sorted(theirs.keys() | mine.keys()):
      yield from _differences(
          theirs.get(key), mine.get(key), f"{prefix}{key}.")
  elif theirs != mine:
    yield f"{prefix.rstrip('.')}: {theirs} there, {mine} here"


def _git(*args: str) -> str:
  """What git says of the code that runs; empty where it is not in a repository."""
  folder = epath.Path(__file__).parent
  try:
    return subprocess.run(
        ("git", *args), cwd=folder, capture_output=True, text=True, check=True,
    ).stdout
  except (OSError, subprocess.CalledProcessError):
    return ""
