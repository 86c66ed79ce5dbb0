"""The asv suite: what ESM-2 costs in each precision, and what it gets wrong.

Benchmarks, each for cells of model, precision and workload:

- ``throughput``: tokens/s, sequences/s, runtime, peak memory
- ``precision``: a precision beside FP32 in one process: speedup, memory saving, fidelity
- ``engine``: the engine beside its own GEMMs and beside fair-esm and Transformers; loading and compiling
- ``pipeline``: ``virnucpro embed`` from FASTA to HDF5, beside its engine alone
- ``scaling``: the engine by sequence length, ``virnucpro embed`` by number of sequences
- ``workers``: ``virnucpro embed --ray`` by number of GPUs

What they share (asv imports these, too, and finds no benchmark in them):

- ``_cells``: one measurement for all figures of a cell
- ``_outcomes``: how the processes of a cell share it
- ``_protocol``: how a time is measured: warm-up, blocks, turns
- ``_memory``: how peak memory is measured
- ``_energy``: joules of a GPU
- ``_fidelity``: how a precision's embeddings are judged
- ``_fidelity_massive``: the same with weights that have a massive channel
- ``_golden``: published embeddings of ESM-2's own weights, to compare with
- ``_fidelity_report``: a program, `make fidelity`: how far each precision moves embeddings
- ``_massive``: weights with a massive channel, made out of others
- ``_conditions``: threads, CPUs and the GPU's state, which are recorded beside each number
- ``_workloads``: which proteins are embedded
- ``_hardware``: what this machine is and which cells it can run; the table of precisions
- ``_virnucpro``: the names imported from the benchmarked commit, wherever it has them
- ``_esm2``: a loaded model with a workload
- ``_meanwhile``: entries of a mapping for a while
- ``_gemms``: GEMMs alone; ``_peers``, ``_esm_efficient``, ``_esm_cpp``: other implementations of ESM-2
- ``_engine_table``: a program, `make engine`: all implementations side by side
- ``_formats``: its other table: a model's precisions side by side
- ``_in_turn``: what its tables share: rounds, and memory in processes of their own
"""

SOURCE = "VIRNUCPRO_BENCH_SOURCE"
"""Names the folder that virnucpro must come from: asv checks nothing in environments it did not build."""
