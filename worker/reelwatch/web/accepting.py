"""What whoever asks can read, as `Accept` and `Accept-Encoding` say it (RFC 9110, 12.5)."""

import re

_WEIGHT = re.compile(r"\s*q=([01](?:\.[0-9]*)?)\s*")


def weight(accepted: str, name: str) -> float:
    """How much it is wanted, 0 to 1, by that header; 0 where its very name is not there.

    A name like `text/html` or `gzip`, in lower case; what stands for several, as `*/*`, is no name.
    """
    found = [0.0]
    for each in accepted.lower().split(","):
        named, *parameters = each.split(";")
        if named.strip() == name:
            weights = [said[1] for said in map(_WEIGHT.fullmatch, parameters) if said]
            found.append(float(weights[0]) if weights else 1.0)
    return max(found)
