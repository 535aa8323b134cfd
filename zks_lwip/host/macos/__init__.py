"""Hosts that run macOS: looked at, changed, followed and changed back.

- :mod:`.platform` is what the rest asks; :mod:`.host`: a Mac that is set up.
- :mod:`.observe` looks at one, by :mod:`.read`, which reads what the system's programs print.
- :mod:`.system`: what steps act through; :mod:`.news`: the kernel's, of the routing socket.

None of it has run on a Mac yet: its commands and what it makes of answers are tested against a fake
(``tests/kits/macos.py``), its numbers against the SDK's headers.
"""
