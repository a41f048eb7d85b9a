"""The only package that touches the machine. What the layers above need of it is said in protocols.py.

Light, as all modules here that the fork-server imports: what these load, every container's processes carry.
"""


class StartRefused(Exception):
    """The runtime did not start the container; its own log says why."""


class AttachRefused(Exception):
    """The runtime could not enter the container."""
