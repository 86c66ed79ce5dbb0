"""ESM-2: the encoder (``esm2``), its precisions and number formats, and how it is loaded (``esm2_flash``)."""
