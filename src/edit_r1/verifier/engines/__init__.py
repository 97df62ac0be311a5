"""Engines: ways to run the model behind a verifier. Import the one you need; the transformers one imports torch."""
