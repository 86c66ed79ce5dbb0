"""Coverage-guided fuzzing of what reads files, with atheris: ``python -m tests.fuzz.fasta -max_total_time=60``."""
