"""Hosts that run Linux: looked at, changed, followed and changed back.

- :mod:`.host`: put a plan into force and take it back (``applied``, ``Host``);
  :mod:`.monitor` follows what others change meanwhile; :mod:`.recover` takes back what an instance
  that died has left.
- :mod:`.observe`, :mod:`.find_marks`, :mod:`.find_resolver`: look at a network namespace.
- :mod:`.system`: what steps act through, by :mod:`.rtnetlink`, :mod:`.sysctl` files,
  :mod:`.programs` and the firewall's :mod:`.table`; :mod:`.apply` does a step and says what failed.
- :mod:`.journal`: what has been changed, written down before it is changed.
- :mod:`.privileges`: check and drop them, by :mod:`.capabilities`; :mod:`.resolver_helper` keeps
  root's for the system's resolver.
- :mod:`.route_lookup`, :mod:`.socket_marks`: ask the kernel about a route, or a socket.
- :mod:`.ssh`: whether a plan would cut the SSH connection that the command came over.

What is here can be imported on every system. The modules that speak to the kernel are imported by
their names, where they are used.
"""
