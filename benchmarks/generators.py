"""Compares generators other than Transformers with what is written in PyTorch.

Run: python -m benchmarks.generators (about 5 minutes on 2 idle cores). It prints a
table, then one line of JSON with the ratios of times, ours over the peer's.
"""

from benchmarks import attention_peer
from benchmarks import strokes_peer
from benchmarks import timing


def main() -> None:
  """Runs all comparisons and prints their results."""
  timing.report(
      attention_peer.attention_over_torch, attention_peer.feeding_over_torch,
      attention_peer.beam_over_torch, strokes_peer.strokes_over_torch)


if __name__ == "__main__":
  main()
