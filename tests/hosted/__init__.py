"""End to end on hosted CI: the machine that the tests run on is captured, cut off, and put back.

On Linux network namespaces stand for machines (``tests/netns``); other systems have none, and there
is one machine. So these tests change it: they run in ci.yml alone, on machines that are thrown
away, with ``ZKS_HOSTED=1`` and as root or administrator, and are skipped everywhere else.

A worker on the same machine would be reached over loopback, and what it connects to would be
captured. Therefore the uplink is a TUN of the tests' own: what leaves the machine comes out of a
program (:mod:`.outside`), which serves the worker and a page, and tells of everything else.

On Linux it is the examples that need a whole machine: containers with Docker's own engine
(``test_containers.py``), and services with the systemd that the machine was started by
(``test_units.py``).
"""
