"""What processes that train one run together must agree on."""

from collections.abc import Iterator
from typing import Any

from transfer_gen import errors
from transfer_gen import processes
from transfer_gen.config import codec
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import environment
from transfer_gen.transfer import plan as plan_lib

Assembled = assembled_lib.Assembled
# Other versions of these may compute other numbers, or order the batches otherwise.
_CODE = ("transfer_gen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
         "numpy", "sentencepiece", "tokenizers")


def check(run: codec.Run, min_coverage: float, evaluates: bool) -> None:
  """Checks what several processes need to know before they read anything.

  Args:
    run: Config of the run.
    min_coverage: Share of the target's params that must come from a source.
    evaluates: Whether the run is to be scored on its test data at the end.

  Raises:
    errors.UserError: If they run other code or another config, or the run asks for what
      several processes cannot do together.
  """
  if processes.count() == 1:
    return
  code = environment.describe()
  processes.agree({
      **{f"version of {name}": code["versions"].get(name) for name in _CODE},
      **{name: code[name] for name in ("python", "commit", "uncommitted")}})
  processes.agree({"--min_coverage": min_coverage, "--evaluate": evaluates,
                   **dict(_fields(codec.run_to_json(run), "config."))})
  if reasons := [reason for is_so, reason in (
      (run.strategy.name == "auto", "name a strategy.name other than auto"),
      (run.strategy.name == "distill" or run.distill is not None,
       "learn without a teacher (distill)"),
      (run.features is not None, "set features=None"),
      (run.parallel.mode != "jit", "set parallel.mode=jit"),
      (run.train.metric != "loss", "set train.metric=loss"),
      (evaluates, "leave out --evaluate, and give `evaluate --workdir` afterwards"),
  ) if is_so]:
    raise errors.UserError(
        "several processes cannot train this run together. Start a single one, or "
        + "; ".join(reasons) + ".")


def check_read(assembled: Assembled) -> None:
  """Checks that all processes have read the same and made the same of it.

  Raises:
    errors.UserError: If not; names what differs, and in which process.
  """
  if processes.count() == 1:
    return
  data = assembled.data
  processes.agree({
      "data (the texts themselves)": data.facts["fingerprint"],
      "data (what was made of them)": data.facts,
      "tokens": [str(token) for token in data.tokenizer.tokens],
      **dict(_fields(codec.run_to_json(assembled.run), "config.")),
      "plan": plan_lib.fingerprint(assembled.plan),
      **{f"source {name or '(the only one)'}": sorted(
          (leaf, str(spec)) for leaf, spec in specs.items())
         for name, specs in assembled.source_specs.items()}})


def _fields(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
  """Yields the fields of JSON objects, by names joined with dots."""
  if isinstance(value, dict) and value:
    for key, inner in value.items():
      yield from _fields(inner, f"{prefix}{key}.")
  else:
    yield prefix.rstrip("."), value
