"""Ports of a command in a network namespace of its own, published on the host (Linux).

The listeners are the host's; the sockets that are connected to the command are of its namespace,
made by :mod:`..rootless.sockets`. So each half is the kernel's own TCP or UDP, and nothing of this
passes through the TUN: what the command sends by itself still has no way but the tunnel.

- :mod:`.ports`: what the user writes.
- :mod:`.listeners`: sockets of the host.
- :mod:`.inside`: which address of the namespace is connected to.
- :mod:`.connection`: one TCP connection; :mod:`.datagrams`: the datagrams of one UDP port.
- :mod:`.publisher`: all of them, for as long as the command runs.
"""
