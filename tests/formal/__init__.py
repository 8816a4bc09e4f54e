"""The handshake's symbolic model, its mutants, and what a checker must answer. See README.md."""
