"""The asv suite: what ESM-2 costs in each precision, and what it gets wrong.

Benchmarks, each for cells of model, precision and workload:

- ``throughput``: tokens/s, sequences/s, runtime, peak memory
- ``precision``: a precision beside FP32 in one process: speedup, memory saving, fidelity
- ``engine``: the engine beside its own GEMMs and beside fair-esm and Transformers; loading and compiling
- ``pipeline``: ``virnucpro embed`` from FASTA to HDF5, beside its engine alone
- ``scaling``: the engine by sequence length, ``virnucpro embed`` by number of sequences
- ``workers``: ``virnucpro embed --ray`` by number of GPUs

Below, in rooms of their own, is what they share (asv imports these, too, and finds no benchmark in them):

- ``suite``: what a benchmark is made of. ``cell``: one measurement for all figures of a cell; ``outcomes``: how
  its processes share it; ``program``: the measured commit; ``places``: where that has each name; ``padded``: the
  same names for VirNucPro's own program; ``workloads``: the proteins, ``fragments``: those of VirNucPro;
  ``hardware``: what this machine is and which cells it can run
- ``measure``: how a figure is measured. ``timing``: warm-up, blocks, turns; ``memory``; ``gpu``: energy and
  conditions; ``fidelity``, ``massive``: weights with a massive channel, ``fidelity_massive``: fidelity with them;
  ``outputs``: embeddings for asv_plugin to compare commits by, ``seeded``: the weights for that;
  ``golden``: published embeddings of ESM-2's own weights; ``gemms``: GEMMs alone;
  ``in_turn``: implementations timed in turn; ``fidelity_report``: a program,
  `make fidelity`
- ``peers``: other implementations of ESM-2, the baselines. ``base``, ``fair_esm``, ``transformers``,
  ``esm_efficient``, ``esm_cpp``, ``open_vino``, ``onnx_runtime``, the last two in ``own_process``; ``table``: a
  program, `make engine`; ``formats``: its other table, a model's precisions side by side
"""

SOURCE = "VIRNUCPRO_BENCH_SOURCE"
"""Names the folder that virnucpro must come from: asv checks nothing in environments it did not build."""
