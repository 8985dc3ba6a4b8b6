"""Training beside PyTorch, the loop beside its step, the data beside both.

Run: python -m benchmarks.training (about 6 minutes on 2 cores). A table, then one
line of JSON with the ratios: of times, ours over the peer's, and for
`data_over_training` of tokens a second, the pipeline's over the step's.
"""

from benchmarks import decoder_peer
from benchmarks import loop_overhead
from benchmarks import lstm_peer
from benchmarks import timing


def main() -> None:
  """Measures and prints."""
  timing.report(
      **decoder_peer.training(), **lstm_peer.lstm_over_torch(),
      **loop_overhead.training(), **loop_overhead.data())


if __name__ == "__main__":
  main()
