"""Runs with controls: trains what is not finished, tests, compares, reports."""

from collections.abc import Mapping
import contextlib
import copy
import dataclasses
import json
import time
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.formats import whole
from transfer_gen.run import environment
from transfer_gen.run import reader as reader_lib
from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import accounts
from transfer_gen.study import auto
from transfer_gen.study import report
from transfer_gen.train import score as evaluate

RESULT = "result.json"
_ANSWER = 48  # Tokens of a sample.
_WORDS = 8  # Of a text that a language model goes on from.
_STILL_IMPROVING = 0.01  # Fall of the validation loss over the last fifth.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One training of a study: a run with a seed and a learning rate."""
  name: str
  seed: int
  lr: float
  workdir: epath.Path
  run: config_lib.Run


def jobs(study: config_lib.Study, workdir: epath.PathLike) -> list[Job]:
  """What a study trains, sources before those that read them.

  Raises:
    errors.UserError: If a name is of no run, or sources go in a circle.
  """
  compared = {name for pair in study.pairs for name in pair}
  if unknown := compared - study.runs.keys():
    raise errors.UserError(
        f"pairs name {', '.join(sorted(unknown))}, not among the runs"
        f" {', '.join(study.runs)}.")
  result = []
  for name in _in_order(study.runs):
    run = study.runs[name]
    seeds = study.seeds if name in compared else study.seeds[:1]
    lrs = (study.lrs or (run.optim.lr,)) if name in compared else (run.optim.lr,)
    for seed in seeds:
      for lr in lrs:
        folder = epath.Path(workdir) / name
        if name in compared:
          folder = folder / f"seed_{seed}" / f"lr_{lr:g}"
        result.append(Job(name=name, seed=seed, lr=lr, workdir=folder,
                          run=_with(run, seed, lr, epath.Path(workdir))))
  return result


def run(study: config_lib.Study, workdir: epath.PathLike) -> dict[str, Any]:
  """Trains, tests, compares; writes `result.json` and `report.html`.

  Args:
    study: Runs, pairs, seeds.
    workdir: Holds each run's workdir; what is finished there is not done again.

  Returns:
    What `result.json` holds. Its `summary`: `<run>_test_loss` of each compared run
    (nats per token, mean over seeds), `gain_nats_per_token` of the first pair with
    its interval, `reached`, the step of each seed at which it stood where its control
    ended, and `seconds`.

  Raises:
    errors.UserError: For what is wrong in a run, named.
  """
  start, workdir = time.time(), epath.Path(workdir)
  todo = jobs(study, workdir)
  for job in todo:
    with _naming(job):
      auto.check(job.run)
  reader = reader_lib.Reader()
  for number, job in enumerate(todo, 1):
    print(f"[{number}/{len(todo)}] {job.name}, seed {job.seed}, lr {job.lr:g}",
          flush=True)
    with _naming(job):
      auto.train(job.run, job.workdir, reader=reader)
  chosen = {name: _best_lr([job for job in todo if job.name == name])
            for pair in study.pairs for name in pair}
  results = {name: [_test(job, study, reader) for job in todo
                    if job.name == name and job.lr == chosen[name]]
             for name in chosen}
  comparisons = [
      _compare(pair, results) for pair in study.pairs]
  first = comparisons[0]
  summary = {
      **{f"{name}_test_loss": _mean(runs, "loss") for name, runs in results.items()},
      "gain_nats_per_token": first["gain"], "gain_low": first["low"],
      "gain_high": first["high"], "seeds_ahead": first["seeds_ahead"],
      "reached": first["reached"], "seeds": len(study.seeds), "lrs": chosen,
      "seconds": round(time.time() - start, 1),
  }
  sources = {job.name: _cost(job) for job in todo if job.name not in chosen}
  data = json.loads((todo[-1].workdir / "data.json").read_text())
  facts = {"question": study.question, "summary": summary, "sources": sources,
           "environment": environment.describe(),
           "data": f"{data['name']} {data.get('version')} {data['fingerprint'][:16]}",
           "comparisons": comparisons,
           "runs": {name: [{k: v for k, v in r.items()
                            if k not in ("scores", "validations")}
                           for r in runs] for name, runs in results.items()}}
  whole.write_json(workdir / RESULT, facts)
  page = report.study_page(facts, {
      f"{job.name}, seed {job.seed}": records.read_metrics(job.workdir)
      for job in todo if job.lr == chosen.get(job.name, job.lr)})
  whole.write_text(workdir / "report.html", page)
  print(report.study_text(facts))
  print(f"report: {workdir / 'report.html'}")
  return facts


@contextlib.contextmanager
def _naming(job):
  """What is wrong with a run is said with its name."""
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(f"run {job.name!r}: {error}") from error


def write_results(path: epath.PathLike, command: str, facts: dict[str, Any]) -> None:
  """Writes a study's section into a Markdown file, in place of its earlier one."""
  path = epath.Path(path)
  text = path.read_text() if path.exists() else "# Results\n"
  whole.write_text(path, report.replace_section(
      text, command, report.study_markdown(command, facts)))


def _in_order(runs: Mapping[str, config_lib.Run]) -> list[str]:
  """Names, each after the run that its source names."""
  ordered: list[str] = []

  def visit(name, path):
    if name in path:
      raise errors.UserError(f"sources go in a circle: {' -> '.join([*path, name])}.")
    if name in ordered:
      return
    teacher = [runs[name].distill.teacher] if runs[name].distill else []
    for source in [*runs[name].all_sources().values(), *teacher]:
      if source.run and source.run not in runs:
        raise errors.UserError(
            f"run {name!r}: source.run is {source.run!r}, which is none of"
            f" {', '.join(runs)}.")
      if source.run:
        visit(source.run, (*path, name))
    ordered.append(name)

  for name in runs:
    visit(name, ())
  return ordered


def _with(run, seed, lr, workdir) -> config_lib.Run:
  at = lambda source: dataclasses.replace(
      source, path=str(workdir / source.run), run="") if source.run else source
  found = {name: at(source) for name, source in run.all_sources().items()}
  return dataclasses.replace(
      copy.deepcopy(run), seed=seed, source=found.pop("", None), sources=found,
      optim=dataclasses.replace(run.optim, lr=lr),
      distill=run.distill and dataclasses.replace(
          run.distill, teacher=at(run.distill.teacher)))


def _validations(job: Job) -> list[tuple[int, float]]:
  return [(line["step"], line["loss"])
          for line in records.read_metrics(job.workdir)
          if line["split"] == "validation"]


def _best_lr(tried: list[Job]) -> float:
  """The rate with the lowest best validation loss, as a mean over seeds."""
  losses: dict[float, list[float]] = {}
  for job in tried:
    losses.setdefault(job.lr, []).append(min(l for _, l in _validations(job)))
  return min(losses, key=lambda lr: np.mean(losses[lr]))


def _test(
    job: Job, study: config_lib.Study, reader: reader_lib.Reader
) -> dict[str, Any]:
  """Scores of the best checkpoint on the test split, and what it generates."""
  trained = trained_lib.open(job.workdir)
  data, texts = trained.data(reader)
  scores = trained.score(data, "test")
  write_scores(job.workdir, "test", trained.step, scores)
  fit = np.flatnonzero(data.document_bytes("test"))  # Others were dropped.
  pairs = [_prompt(texts["test"][i]) for i in fit]
  return {**scores.metrics(), "seed": job.seed, "lr": job.lr, "step": trained.step,
          "validation_loss": min(l for _, l in _validations(job)),
          "validations": _validations(job), "still_improving": _improving(job),
          "samples": _sampled(job, trained, pairs, study.samples), "scores": scores,
          **_cost(job),
          **({"accounts": accounts.of(
              job.run, job.workdir, trained, reader, study.remembered)}
             if study.accounts else {})}


def _sampled(job, trained, pairs, count) -> list[dict[str, str]]:
  """What it answers to the first prompts behind which the model can read as much, or
  to those that leave it most room."""
  rooms = [min(room, _ANSWER) for room in trained.rooms([p for p, _ in pairs])]
  chosen = [i for i in sorted(range(len(pairs)), key=rooms.__getitem__, reverse=True)
            if rooms[i] > 0][:count]
  if not chosen:
    return []
  prompts = [pairs[i][0] for i in chosen]
  answers = trained.complete(prompts, min(rooms[i] for i in chosen))
  return records.add_samples(
      job.workdir, prompts, answers, reference=[pairs[i][1] for i in chosen])


def _prompt(document: documents.Document) -> tuple[str, str]:
  """Input and reference: of a pair, or a text cut after its first words."""
  if document.input:
    return document.input, document.target
  words = document.target.split(" ")
  return " ".join(words[:_WORDS]), " ".join(words[_WORDS:])


def write_scores(
    workdir: epath.PathLike, split: str, step: int, scores: evaluate.Scores
) -> None:
  """Writes `scores_<split>.json`: sums of each document, to pair runs by."""
  whole.write_json(epath.Path(workdir) / f"scores_{split}.json", {
      "step": step, **scores.metrics(), "nats": scores.nats.tolist(),
      "document_tokens": scores.tokens.tolist(),
      "document_bytes": scores.text_bytes.tolist()})


def _improving(job: Job) -> bool:
  """Whether validation loss still fell by over 1% in the last fifth of the run."""
  curve = _validations(job)
  until = 0.8 * job.run.train.steps
  early = [loss for step, loss in curve if step <= until] or [curve[0][1]]
  return (early[-1] - curve[-1][1]) / early[-1] > _STILL_IMPROVING


def _cost(job: Job) -> dict[str, Any]:
  lines = [line for line in records.read_metrics(job.workdir)
           if line["split"] == "train"]
  return {"train_tokens": sum(round(l["tokens_per_second"] * l["seconds"])
                              for l in lines),
          "train_seconds": round(sum(line["seconds"] for line in lines), 1)}


def _mean(runs, key) -> float:
  return float(np.mean([run[key] for run in runs]))


def _compare(pair, results) -> dict[str, Any]:
  """The first of the pair against the second, documents pooled over seeds."""
  treated, control = (results[name] for name in pair)
  pooled = [_pool([run["scores"] for run in runs]) for runs in (treated, control)]
  return {
      "treated": pair[0], "control": pair[1], **evaluate.difference(*pooled),
      "seeds_ahead": sum(t["loss"] < c["loss"] for t, c in zip(treated, control)),
      "control_still_improving": sum(run["still_improving"] for run in control),
      "reached": [_reached(t, c) for t, c in zip(treated, control)],
  }


def _reached(treated: dict[str, Any], control: dict[str, Any]) -> int | None:
  """First validated step at which the control's best validation loss was reached."""
  return next((step for step, loss in treated["validations"]
               if loss <= control["validation_loss"]), None)


def _pool(scores: list[evaluate.Scores]) -> evaluate.Scores:
  return evaluate.Scores(
      nats=sum(s.nats for s in scores), tokens=sum(s.tokens for s in scores),
      text_bytes=sum(s.text_bytes for s in scores))
