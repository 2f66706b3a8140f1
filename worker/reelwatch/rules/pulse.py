"""How processes and `reelwatch alive` find each other; loads nothing, for asking must be cheap."""

NAMES = "reelwatch-alive/"  # of the sockets, followed by the kind of process and a number
KINDS = ("worker", "beat", "up")
WELL = "well"
