"""Every error that this project raises on purpose, in one tree.

    VosError
    |-- InputError(ValueError)            what the user gave cannot be used
    |   |-- VideoError                    a video or image file: missing, unreadable, without a decodable frame
    |   |-- MaskError                     a mask file or array: format, size, ids
    |   |-- PromptError                   a prompt: outside the image, unknown object, empty
    |   `-- DatasetError                  a dataset layout or a set of predictions: missing frame, unknown sequence
    |-- OutputError(OSError)              results cannot be written: not writable, already there
    |-- CheckpointError(ValueError)       weights: wrong keys or shapes, truncated, of another configuration
    |-- LimitError(MemoryError)           a stated bound would be passed
    |   `-- DiskFullError                 no room left where results are written
    |-- DeviceError(RuntimeError)         the device that was asked for is not there
    `-- MissingExtraError(ImportError)    an optional dependency is not installed

A message is one sentence that says what was wrong, which value, and what to do. Foreign errors are translated once,
where they enter, with ``raise ... from error``. Exit codes belong to ``cli``.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DiskFullError",
    "InputError",
    "LimitError",
    "MaskError",
    "MissingExtraError",
    "OutputError",
    "PromptError",
    "VideoError",
    "VosError",
]


class VosError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(VosError, ValueError):
    """Something the user gave cannot be used."""


class VideoError(InputError):
    """A video or image file is missing, unreadable or holds no decodable frame."""


class MaskError(InputError):
    """A mask has the wrong format, size or ids."""


class PromptError(InputError):
    """A prompt lies outside the image, names an unknown object, or is empty."""


class DatasetError(InputError):
    """A dataset or a set of predictions lacks a sequence, a frame, or has one of the wrong size."""


class OutputError(VosError, OSError):
    """Results cannot be written where they were asked for."""


class CheckpointError(VosError, ValueError):
    """Weights do not fit the configuration, or the file is damaged."""


class LimitError(VosError, MemoryError):
    """A stated bound (objects, memory, disk) would be passed."""


class DiskFullError(LimitError):
    """The file system that takes the results has no room left."""


class DeviceError(VosError, RuntimeError):
    """The device that was asked for is not there."""


class MissingExtraError(VosError, ImportError):
    """An optional dependency is needed and not installed."""
