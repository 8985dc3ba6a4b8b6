"""What a page shows of the files that trainings left in their workdirs."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import os
from typing import Any
import urllib.parse

from etils import epath

from transfer_gen import untrusted
from transfer_gen.run import page
from transfer_gen.transfer import audit as audit_lib

# Characters of all audits and of all drawings in a page. What comes later is a link, so
# that a page of hundreds of runs can still be sent by mail.
_ROOM = 1_500_000
_LINKS = {"page": "report.html", "plan": "plan.json", "config": "config.json"}

Trainings = Sequence[Mapping[str, Any]]  # As of `every_training.describe`.


def relative(path: str, folder: epath.PathLike) -> str:
  """Returns a path as seen from a folder, so that both can be moved together.

  Between a bucket and a disk, or two buckets, it stays as it is.
  """
  if "://" in f"{path}{folder}":
    return path.removeprefix(f"{str(folder).rstrip('/')}/")
  return os.path.relpath(path, folder)


def links(workdir: str) -> dict[str, str]:
  """Returns addresses of page, plan and config of a run, by what they are called."""
  # A colon in the name of a folder would make it the scheme of an address.
  safe = "/:" if workdir.startswith(("gs://", "s3://")) else "/"
  return {name: urllib.parse.quote(f"{workdir}/{file}", safe=safe)
          for name, file in _LINKS.items()}


def audits(trainings: Trainings, folder: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the audit of each plan, once for all trainings that have the same.

  Args:
    trainings: The trainings.
    folder: The folder of the page, from which their workdirs are seen.

  Returns:
    For each: `names` of the runs, the number of `trainings`, and `audit`, as part of a
    page; None if there is no room for it.
  """
  found: dict[str, dict[str, Any]] = {}
  for one in trainings:
    text = page.audit_of(audit_lib.read(epath.Path(folder) / one["workdir"]))
    audit = found.setdefault(text, {"names": [], "trainings": 0, "audit": text})
    audit["trainings"] += 1
    if one["run"] not in audit["names"]:
      audit["names"].append(one["run"])
  _fit(found.values(), "audit")
  return list(found.values())


def drawings(facts: Mapping[str, Any], folder: epath.PathLike) -> list[dict[str, Any]]:
  """Returns pictures of what runs of the first seed drew, and of the test drawings.

  Args:
    facts: What `study.run` found.
    folder: As of `audits`.

  Returns:
    For each picture: its `name`, its `path`, and `address`, which holds all of it;
    None if there is no room for it.
  """
  found: dict[str, dict[str, Any]] = {}
  for key, name in (("test_pictures", "The test split"), ("pictures", "")):
    for run, seeds in facts["runs"].items():
      if key in seeds[0]:
        path = seeds[0][key]
        data = untrusted.read(epath.Path(folder) / path)
        # As an image: a browser runs no script of an image, whatever is in the file.
        address = f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"
        # Runs that are tested on the same drawings show them once.
        found.setdefault(f"{name or run}{address}", {
            "name": name or run, "path": urllib.parse.quote(path, safe="/"),
            "address": address})
  _fit(found.values(), "address")
  return list(found.values())


def _fit(found: Iterable[dict[str, Any]], key: str) -> None:
  """Sets to None what does not fit into a page any more."""
  used = 0
  for one in found:
    used += len(one[key])
    if used > _ROOM:
      one[key] = None
