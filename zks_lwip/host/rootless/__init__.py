"""One command in namespaces of its own, for callers without privileges (Linux).

- :mod:`.spawn`: make the namespaces and the TUN, start the command, wait for it.
- :mod:`.sockets`: sockets of its network namespace, for us outside.
- :mod:`.mounts`: which files of the host the command must not see; :mod:`.ssh_config`: which ones
  of OpenSSH's it needs a copy of.
- :mod:`.errors`: why the system refuses, and the setting that decides it.
"""
