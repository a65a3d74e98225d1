"""SEEM: one image and prompts in, masks out; and how such a model is trained."""
