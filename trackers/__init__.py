"""Keep each object's identity from frame to frame."""
