"""Compares training with PyTorch, the loop with its step, and the data with both.

Each comparison runs in a process of its own, in which both sides alternate: memory that
one comparison leaves in the allocator would help PyTorch in the next (see
BUILD_NOTES.md).

Run: python -m benchmarks.training (about 7 minutes on 2 cores). It prints a table, then
one line of JSON with ratios: of times, ours over the peer's, and for
`data_over_training` of tokens per second, the pipeline's over the step's.
"""

from benchmarks import decoder_peer
from benchmarks import loop_overhead
from benchmarks import lstm_peer
from benchmarks import timing


def main() -> None:
  """Runs all comparisons and prints their results."""
  timing.report(
      decoder_peer.gpt2_small_over_torch, decoder_peer.decoder_256_over_torch,
      lstm_peer.lstm_512_over_torch, loop_overhead.loop_over_step,
      loop_overhead.data_over_training)


if __name__ == "__main__":
  main()
