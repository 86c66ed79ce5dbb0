"""The asv suite: what ESM-2 costs in each precision. ``throughput`` and ``precision`` are the benchmarks."""

VERSION = "1"
"""asv's ``version`` of every benchmark: raise it when a change of the protocol or of the workloads makes new
numbers incomparable with old ones. It is here for what records results, which does without PyTorch: importing that
takes seconds. (8098ea4 changed the passes on GPUs and kept the version: the GPU results from before were recorded
anew, and the CPUs' are as comparable as they were. Delete GPU results of your own from before it.)"""

SOURCE = "VIRNUCPRO_BENCH_SOURCE"
"""Names the folder that virnucpro must come from: asv checks nothing in environments it did not build."""
