"""Tries to run before and instead of others: beside it lie files called like modules that the server, Python or pytest
import, and a .pth file, each of which would end the process (tests/attack_world.py writes them).
"""

import honest


class NeighbourEncoder(honest.HonestEncoder):
    pass
