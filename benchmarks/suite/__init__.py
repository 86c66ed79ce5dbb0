"""What a benchmark is made of: cells, the measured commit, workloads, the hardware."""
