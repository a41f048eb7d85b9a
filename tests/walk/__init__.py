"""A random walk through what can be done with containers, networks and volumes, and with the processes that
hold them; with a model of what must have come of it. See tests/integration/test_random_walk.py.
"""
