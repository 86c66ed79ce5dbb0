"""ESM-2: the architecture (``esm2``) and how it is loaded (``esm2_flash``)."""
