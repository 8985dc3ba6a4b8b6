"""Measures what a step costs when only a part of the model learns.

`head_only_flops` and `top_half_flops` are FLOPs, as XLA counts them, over those of the
step in which everything learns; both clip gradients and log their norm.
`..._flops_over_paper` divides them by the analytical count, and `..._time_over_paper`
divides the measured time by it. `slot_bytes_over_learning` is close to 2 if Adam keeps
two numbers per param that learns. `unfrozen_update_norm` is the largest ratio to the
update of a new optimizer, at an unfreezing and in the hundred steps after it.

Run: python -m benchmarks.what_learns (about 5 minutes on 2 cores). It prints a table,
then one line of JSON.
"""

import json

from benchmarks import frozen
from benchmarks import low_rank
from benchmarks import stored_features
from benchmarks import timing


def main() -> None:
  """Runs all measurements and prints their results."""
  found = {}
  for function in (frozen.head_only, frozen.top_half):
    share, name = timing.alone(function), function.__name__
    found |= {
        f"{name}_flops": share.flops,
        f"{name}_flops_over_paper": share.flops / share.paper,
        f"{name}_time_over_paper": share.time / share.paper,
        f"{name}_slot_bytes_over_learning": share.slot_bytes_over_learning}
    _print_matching(found, name)
  changed = timing.alone(frozen.unfreezing)
  found |= {"unfrozen_update_norm": changed["update_norm"],
            "unfrozen_traces": changed["traces"]}
  _print_matching(found, "unfrozen")
  found["lora_flops"] = timing.alone(low_rank.lora_flops)
  for function in (low_rank.lora_over_full, low_rank.lora_over_peft,
                   stored_features.stored_features_share):
    found[function.__name__] = timing.alone(function).ratio
  found["stored_features_on_paper"] = stored_features.paper_ratio()
  _print_matching(found, "lora")
  _print_matching(found, "stored_features")
  print(json.dumps({name: round(value, 4) for name, value in found.items()}))


def _print_matching(found: dict[str, float], prefix: str) -> None:
  """Prints the results whose names start with a prefix."""
  for name, value in found.items():
    if name.startswith(prefix):
      print(f"{name:36} {value:10.4f}", flush=True)


if __name__ == "__main__":
  main()
