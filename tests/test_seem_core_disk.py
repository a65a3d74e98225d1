"""Errors that mean a full disk, in the words of everybody who writes files here."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from seem_core.disk import is_no_room


@pytest.mark.parametrize(
    ("error", "full"),
    [
        *((OSError(code, "as the system says it"), True) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
        (SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})"), True),
        (SafetensorError(f"I/O error: Permission denied (os error {errno.EACCES})"), False),
        (PermissionError(errno.EACCES, "no"), False),
        (ValueError("nothing about disks"), False),
    ],
)
def test_what_means_a_full_disk(error: Exception, full: bool) -> None:
    assert is_no_room(error) is full
