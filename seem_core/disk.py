"""How a full disk shows: `is_no_room`, the one place that knows which errors of a write mean it."""

from __future__ import annotations

import errno
import re

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a file-size limit
_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # as safetensors spells it


def is_no_room(error: BaseException) -> bool:
    """Whether a full disk, a quota or a file-size limit stopped a write."""
    code = getattr(error, "errno", None)
    if code is None and (told := _IN_WORDS.search(str(error))):
        code = int(told[1])
    return code in NO_ROOM
