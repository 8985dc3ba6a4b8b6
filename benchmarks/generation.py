"""Compares greedy generation with Hugging Face's `generate`.

Both generate 128 tokens after a prompt of 16, for one row.

Run: python -m benchmarks.generation (about 2 minutes on 2 cores). It prints a table,
then one line of JSON with the ratios of times, ours over the peer's.
"""

from benchmarks import decoder_peer
from benchmarks import timing


def main() -> None:
  """Runs all comparisons and prints their results."""
  timing.report(
      decoder_peer.generate_256_over_hf, decoder_peer.generate_gpt2_small_over_hf)


if __name__ == "__main__":
  main()
