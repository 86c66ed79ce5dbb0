"""From token batches to embeddings."""
