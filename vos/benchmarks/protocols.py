"""The rules of a score: which objects and which frames count. Three protocols, as data.

strict     (default) The DAVIS-2017 rules without the official tool's mistakes. Objects are the ids that occur in the
           ground truth; an object counts from the frame after its first annotated one; the quarters of decay do not
           wrap at 256 frames.
davis2017  What the official davis2017-evaluation reports (semi-supervised, commit ac7c43f), to the last digit, its
           mistakes included: objects are 1..max id of the first annotated frame; an id in that range that nobody uses
           scores 1; objects that come later are not scored; decay wraps.
davis2016  One object: everything that is not 0. The mean over objects is then the mean over sequences.

In all of them the first annotated frame (the prompt) is left out, and the last one too, as DAVIS does. ``strict`` keeps
the last one where the ground truth is sparse or has fewer than three frames: DAVIS leaves out one frame of seventy,
while of sparse masks it would be a large part of all there is, and servers for sparse sets (YouTube-VOS) count it.
255 in 8-bit ground truth is void, and counts as background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vos.benchmarks.layouts import AnnotatedSequence

ProtocolName = Literal["strict", "davis2017", "davis2016"]


@dataclass(frozen=True)
class Protocol:
    """The choices that make a protocol."""

    name: ProtocolName
    one_object: bool = False  # everything above 0 is object 1
    ids_of_first_frame: bool = False  # objects are 1..max id of the first frame, gaps included
    always_without_last: bool = True  # also of sparse or very short ground truth
    wrapped_bins: bool = False  # decay as the official tool computes it

    def counted(self, sequence: AnnotatedSequence) -> range:
        """Positions among the annotated frames that count, for an object that is there from the first."""
        n = len(sequence.frames)
        keep_last = not self.always_without_last and (n < 3 or sequence.is_sparse)
        return range(1, n if keep_last else n - 1)


@dataclass(frozen=True)
class Counted:
    """What counts of one sequence where the caller, and not the protocol, decides it.

    positions: of frames among the annotated ones, ascending. objects: their ids; each counts on all these frames.
    """

    positions: tuple[int, ...]
    objects: tuple[int, ...]


PROTOCOLS: dict[str, Protocol] = {
    "strict": Protocol("strict", always_without_last=False),
    "davis2017": Protocol("davis2017", ids_of_first_frame=True, wrapped_bins=True),
    "davis2016": Protocol("davis2016", one_object=True),
}
