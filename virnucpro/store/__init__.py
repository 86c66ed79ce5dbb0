"""Embeddings on disk: rows that survive a crash (``journal``), and the HDF5 file made of them (``hdf5``)."""
