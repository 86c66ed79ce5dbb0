"""Embeddings on disk: rows that survive a crash (``journal``), and the files made of them (``formats``)."""
