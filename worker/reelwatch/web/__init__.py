"""The HTTP API, the pages, the metrics and the probes: what `reelwatch web` serves."""
