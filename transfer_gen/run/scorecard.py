"""What an evaluation found, as lines for a reader, JSON, and files."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen.metrics import summary
from transfer_gen.run import evaluation
from transfer_gen.run import narrow
from transfer_gen.run import records
from transfer_gen.run import sheet

_SAMPLES = 20  # In a sheet, unless another number is asked for.


def facts(found: Sequence[evaluation.Evaluated], split: str) -> dict[str, Any]:
  """Returns what was found of a run, and of another one that it is compared with.

  Args:
    found: The run, and the other one if there is any.
    split: What was evaluated: name of a split, or paths.

  Returns:
    `split`, `step`, each metric by name, `tokens` and `documents`, `intervals`,
    `signatures`; of a model that draws a latent `loss_is_bound`, `reconstruction` and
    `kl` per token, and `kl_per_document`; with another run also `against`: its
    `workdir`, metrics, intervals, and `differences` by metric, see
    `bootstrap.compare`.
  """
  result = {"split": split, **_of_run(found[0])}
  if found[1:]:
    result["against"] = {
        "workdir": str(found[1].trained.workdir), **_of_run(found[1]),
        "differences": summary.differences(evaluation.comparable(*found))}
  return result


def lines(
    found: Sequence[evaluation.Evaluated], numbers: Mapping[str, Any],
    decodings: Sequence[config_lib.Decoding]) -> list[str]:
  """Returns the lines that people read; `numbers` is what `facts` returned."""
  result = []
  for one, own, decoding in zip(found, (numbers, numbers.get("against")), decodings):
    assert own is not None
    result.append(
        f"{one.trained.workdir}: {numbers['split']}, step {one.trained.step}")
    if one.left_out:
      result.append(
          f"{one.left_out} documents are longer than data.length="
          f"{one.trained.run.data.length} tokens and have no loss.")
    if one.written is not None:
      result.append(f"{len(one.written.outputs)} texts written with {_shown(decoding)}")
    if one.written is not None and one.written.too_long:
      result.append(
          f"{one.written.too_long} inputs were longer than the model can read; see"
          " decoding.too_long.")
    result += narrow.table(summary.table(own, list(one.measured)))
    if own.get("loss_is_bound") and "bits_per_byte" in own:
      result.append(
          "loss is a bound from above, the negative ELBO in nats per token:"
          f" {own['loss']:.4f} = reconstruction {own['reconstruction']:.4f} + KL"
          f" {own['kl']:.4f}; bits_per_byte and the perplexities follow from it. KL is"
          f" {own['kl_per_document']:.2f} nats per document.")
    elif one.scores is not None and one.scores.terms:
      result.append("in it, each per target: " + ", ".join(
          f"{name} {value:.4f}" for name, value in one.scores.terms.items()))
    result += [f"{name}: {how}" for name, how in own["signatures"].items()]
  if found[1:]:
    names = sheet.names([one.trained.workdir for one in found])
    result += [f"{names[0]} against {names[1]}:", *narrow.table(
        summary.differences_table(numbers["against"]["differences"]))]
  return [line.rstrip() for line in result]


def write(
    found: Sequence[evaluation.Evaluated], title: str, count: int,
    output: epath.PathLike | None, sheet_file: epath.PathLike | None) -> list[str]:
  """Writes outputs and a sheet of samples where asked; returns the samples as lines.

  Args:
    found: As of `facts`.
    title: Title of the sheet.
    count: Number of samples; 0 means 20 in a sheet, and none as lines.
    output: File of JSON lines for all outputs; None writes none.
    sheet_file: File for the sheet; None writes none.
  """
  written = [one.written for one in found if one.written is not None]
  if not written:
    return []
  if output is not None:
    sheet.write_outputs(output, written)
  names = sheet.names([one.trained.workdir for one in found])
  samples = lambda most: sheet.samples(dict(zip(names, written)), most)
  if sheet_file is not None:
    sheet.write(sheet_file, title, samples(count or _SAMPLES))
  return [sheet.text(samples(count))] if count else []


def check(sheet_file: epath.PathLike | None) -> None:
  """Refuses a file for a sheet whose ending names no form.

  Raises:
    errors.UserError: If it is another than `.html` and `.md`.
  """
  if sheet_file is not None:
    sheet.check(sheet_file)


def keep(one: evaluation.Evaluated, numbers: Mapping[str, Any]) -> None:
  """Writes `scores_<split>.json` into the workdir of a run.

  Args:
    one: What was measured of the run.
    numbers: As `facts` returned them.
  """
  assert one.scores is not None  # Documents of a run's own data have targets.
  records.write_scores(
      one.trained.workdir, numbers["split"], one.trained.step, one.scores,
      {name: numbers[name] for name in (*one.measured, "intervals", "signatures")}
      | {"terms": dict(one.scores.terms)})


def _of_run(one: evaluation.Evaluated) -> dict[str, Any]:
  losses: dict[str, Any] = {} if one.scores is None else one.scores.metrics()
  if one.trained.model.config.draws and losses:
    losses |= {"loss_is_bound": True, "kl_per_document": losses["kl"] * losses[
        "tokens"] / max(losses["documents"], 1)}
  return {"step": one.trained.step, **summary.numbers(one.measured), **losses}


def _shown(decoding: config_lib.Decoding) -> str:
  """Returns the settings of a decoding that are not the default."""
  default = config_lib.Decoding()
  changed = [f"{field.name}={getattr(decoding, field.name)}"
             for field in dataclasses.fields(decoding)
             if getattr(decoding, field.name) != getattr(default, field.name)]
  return ", ".join(changed) or "the default decoding: greedy"
