"""What a step costs when little learns: FLOPs as XLA counts them, bytes, and time.

`head_only_flops` and `top_half_flops` are shares of the step in which all learns, with
clipping and the norm logged; `..._over_paper` compares them with the count on paper,
`..._time` the time with that count. `slot_bytes_over_learning` is 2 where Adam keeps
two numbers a param that learns, and a counter. `unfrozen_update_norm` is the largest
ratio to a fresh optimiser's update at an unfreezing and in the hundred steps after.

Run: python -m benchmarks.what_learns (about 5 minutes on 2 cores). A table, then one
line of JSON.
"""

import json

from benchmarks import frozen
from benchmarks import low_rank
from benchmarks import stored_features
from benchmarks import timing


def main() -> None:
  """Measures and prints."""
  found = {}
  for function in (frozen.head_only, frozen.top_half):
    share, name = timing.alone(function), function.__name__
    found |= {
        f"{name}_flops": share.flops,
        f"{name}_flops_over_paper": share.flops / share.paper,
        f"{name}_time_over_paper": share.time / share.paper,
        f"{name}_slot_bytes_over_learning": share.slot_bytes_over_learning}
    _tell(found, name)
  changed = timing.alone(frozen.unfreezing)
  found |= {"unfrozen_update_norm": changed["update_norm"],
            "unfrozen_traces": changed["traces"]}
  _tell(found, "unfrozen")
  found["lora_flops"] = timing.alone(low_rank.lora_flops)
  for function in (low_rank.lora_over_full, low_rank.lora_over_peft,
                   stored_features.stored_features_share):
    found[function.__name__] = timing.alone(function).ratio
  found["stored_features_on_paper"] = stored_features.paper_ratio()
  _tell(found, "lora")
  _tell(found, "stored_features")
  print(json.dumps({name: round(value, 4) for name, value in found.items()}))


def _tell(found: dict[str, float], prefix: str) -> None:
  for name, value in found.items():
    if name.startswith(prefix):
      print(f"{name:36} {value:10.4f}", flush=True)


if __name__ == "__main__":
  main()
