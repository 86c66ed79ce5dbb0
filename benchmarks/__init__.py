"""The asv suite: what ESM-2 costs in each precision. ``throughput`` and ``precision`` are the benchmarks."""
