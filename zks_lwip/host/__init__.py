"""What is changed on a host so that its traffic enters the TUN, and nothing else leaves.

- :mod:`.plan` decides, and is pure: state in, steps out. To add a kind of step, see
  :mod:`.plan.steps`.
- :mod:`.linux` looks, applies, undoes and follows.
- :mod:`.rootless` runs one command in namespaces of its own; :mod:`.published` lets programs of the
  host connect to it.
- :mod:`.options`: what the user can be asked about the host; :mod:`.resolv_conf`: what is kept of
  the host's resolv.conf(5).
"""
