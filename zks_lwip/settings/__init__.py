"""Settings in files: TOML in ``/etc/zks_lwip.toml``, in the user's own file, or in a named one.

``keys`` says which keys there are, ``files`` where files lie and who may have written them,
``judge`` what is wrong with one, ``layers`` what several of them say for a command and a profile,
and ``vpn`` makes a :class:`~zks_lwip.config.VpnConfig` of it. Environment and command line are the
command line's affair: both beat every file.
"""

from __future__ import annotations
