"""Hosts that run Linux: looked at, changed, followed and changed back.

- :mod:`.platform` is what the rest asks; :mod:`.host`: a network namespace that is set up
  (``applied``, ``Host``); :mod:`.monitor`: the kernel's news; :mod:`.recover` takes back what an
  instance that died has left, which :mod:`.instances` sees.
- :mod:`.observe`, :mod:`.find_marks`, :mod:`.find_resolver`: look at a network namespace.
- :mod:`.system`: what steps act through, by :mod:`.rtnetlink`, :mod:`.sysctl` files, programs and
  the firewall's :mod:`.table`.
- :mod:`.privileges`: check and drop them, by :mod:`.capabilities`; :mod:`.resolver_helper` keeps
  root's for the system's resolver.
- :mod:`.route_lookup`, :mod:`.socket_marks`: ask the kernel about a route, or a socket.

What is here can be imported on every system. The modules that speak to the kernel are imported by
their names, where they are used.
"""
