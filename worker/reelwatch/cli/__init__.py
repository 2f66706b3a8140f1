"""The command `reelwatch`."""
