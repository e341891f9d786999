"""Errors that a user of the pipeline can meet, told without a traceback."""


class PipelineError(Exception):
    """Base of every error that this package raises on purpose."""


class StageError(PipelineError):
    """A stage ended without finishing its artifact; what is done of it stays done."""
