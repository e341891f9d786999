"""The errors of stored artifacts: each message says where, what was found, what is expected and what to do."""


class StorageError(Exception):
    """Base of every error that this package raises on purpose."""


class ArtifactError(StorageError):
    """An artifact or one of its units cannot be used as asked."""


class SchemaError(StorageError):
    """A file's columns or schema version are not those that the reader knows."""


class CorruptUnitError(ArtifactError):
    """A unit's files are not what its sidecar states."""


class HeldError(StorageError):
    """Another process holds the artifact."""


class WriteError(StorageError):
    """The operating system refused a write; nothing of the unit in hand is believed."""
