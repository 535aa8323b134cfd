"""What is changed on a Mac, decided: state in, steps out, no input and output.

- :mod:`.state`: what such a host looks like.
- :mod:`.make`: the steps, in an order that never leaves the host open; :mod:`.pf`: the firewall's
  rules.
- :mod:`.steps`: the kinds of step; :mod:`.system`: what they act through.

All of it has been run against a fake that answers as the programs of macOS do, never on a Mac.
"""
