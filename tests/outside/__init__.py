"""Reelwatch where nothing but Reelwatch is installed: from its wheel, in its image, at its lowest
versions. Each module is a stage of CI; they need the standard library only.

    python3 -m tests.outside.wheel
    .venv/bin/python -m tests.outside.image     # root, buildah and mmdebstrap
    python3 -m tests.outside.lowest
"""
