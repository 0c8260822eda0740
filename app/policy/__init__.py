"""The policy language: documents, validation, compilation, evaluation, explanation (pure)."""
