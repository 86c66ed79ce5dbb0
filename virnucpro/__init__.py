"""VirNucPro: find viruses in short DNA fragments with ESM-2 protein embeddings."""
